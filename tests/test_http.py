"""The service as its callers see it: the real Cog server over HTTP, on the built-in checkpoint.

The truth is the Python API on the same checkpoint in the same dtype.
"""

import base64
import json
import random
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from server import ROOT, Server, serve

from e5.embedder import Embedder
from e5.prompts import DEFAULT_TASK, TASKS
from e5.settings import Settings
from e5.types import INPUTS, MAX_CHARACTERS, MAX_TEXTS
from e5.vectors import Vectors

WEIGHTS = Path("weights/e5-mini")
SETTINGS = {"E5_DEVICE": "cpu", "E5_DTYPE": "float32"}
QUERY = "how much protein should a female eat"
DOCUMENT = "As a general guideline, women aged 19 to 70 need 46 grams of protein a day."
WORDS = [
    *("river", "stone", "amber", "quiet", "lantern", "orbit", "maple", "velvet", "copper"),
    *("winter", "signal", "harbor", "meadow", "thunder", "pepper", "saddle", "window", "garden"),
    *("silver", "basket"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Without a schema file: every check is ours."""
    with serve(WEIGHTS, env=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def server_with_schema() -> Iterator[Server]:
    """As in an image: Cog checks inputs first."""
    with serve(WEIGHTS, env=SETTINGS, with_schema=True) as running:
        yield running


@pytest.fixture(scope="module")
def python() -> Embedder:
    return Embedder.load(Settings(weights=ROOT / WEIGHTS, device="cpu", dtype="float32"))


def output_of(server: Server, **inputs: Any) -> dict[str, Any]:
    answer = server.predict(inputs)
    assert answer["status"] == "succeeded", answer
    output: dict[str, Any] = answer["output"]
    return output


def vectors_of(output: dict[str, Any]) -> Vectors:
    return np.array(output["embeddings"], np.float32)


def refusal_of(server: Server, **inputs: Any) -> str:
    """The sentence that refuses these inputs; the server must answer a good request after it."""
    answer = server.predict(inputs)
    assert answer["status"] == "failed", answer
    assert answer.get("output") is None
    error: str = answer["error"]
    assert "Traceback" not in json.dumps(answer)
    assert "\n" not in error
    assert error.endswith(".")
    assert output_of(server, document="still here", dimensions=1)["embeddings"]
    return error


def assert_same(vectors: Vectors, truth: Vectors) -> None:
    assert vectors.shape == truth.shape
    assert (np.abs(vectors - truth).max(axis=1) <= 1e-4 * np.abs(truth).max(axis=1)).all()


def some_texts(count: int, words: int, chance: random.Random) -> list[str]:
    return [" ".join(chance.choices(WORDS, k=words)) for _ in range(count)]


# What comes back


def test_a_pair_gets_two_embeddings_and_their_score(server: Server, python: Embedder) -> None:
    output = output_of(server, query=QUERY, document=DOCUMENT)
    query, document = python.encode_query([QUERY]), python.encode_document([DOCUMENT])
    assert_same(vectors_of(output), np.concatenate([query, document]))
    assert output["score"] == pytest.approx(python.similarity(query, document).item(), abs=1e-2)
    assert output["scores"] == [[output["score"]]]
    assert output["embeddings_base64"] is None


def test_queries_come_first_then_documents_each_in_the_order_given(
    server: Server, python: Embedder
) -> None:
    chance = random.Random(0)
    queries, documents = some_texts(4, 6, chance), some_texts(5, 20, chance)
    output = output_of(
        server,
        documents=documents[1:],
        document=documents[0],
        queries=queries[1:],
        query=queries[0],
    )
    query_vectors, document_vectors = (
        python.encode_query(queries),
        python.encode_document(documents),
    )
    assert_same(vectors_of(output), np.concatenate([query_vectors, document_vectors]))
    assert output["score"] is None
    assert np.array(output["scores"]) == pytest.approx(
        python.similarity(query_vectors, document_vectors), abs=1e-2
    )


@pytest.mark.parametrize(
    ("inputs", "embeddings", "has_score"),
    [
        ({"document": DOCUMENT}, 1, False),
        ({"task": DEFAULT_TASK, "query": QUERY, "document": DOCUMENT}, 2, True),
        ({"task": DEFAULT_TASK, "query": QUERY, "document": DOCUMENT, "normalize": True}, 2, True),
        ({"task": DEFAULT_TASK, "document": DOCUMENT, "normalize": False}, 1, False),
    ],
)
def test_requests_of_the_original_service_keep_their_keys(
    server: Server, inputs: dict[str, Any], embeddings: int, has_score: bool
) -> None:
    output = output_of(server, **inputs)
    assert {"embeddings", "score"} <= output.keys()
    assert len(output["embeddings"]) == embeddings
    assert isinstance(output["score"], float) == has_score


def test_a_document_alone_has_no_score(server: Server, python: Embedder) -> None:
    output = output_of(server, document=DOCUMENT)
    assert output["score"] is None
    assert output["scores"] is None
    assert_same(vectors_of(output), python.encode_document([DOCUMENT]))


def test_base64_holds_the_same_bits_as_the_numbers(server: Server) -> None:
    inputs = {"query": QUERY, "documents": [DOCUMENT, "short"]}
    numbers = output_of(server, **inputs, encoding_format="float")
    output = output_of(server, **inputs, encoding_format="base64")
    assert output["embeddings"] is None
    decoded = [base64.b64decode(text, validate=True) for text in output["embeddings_base64"]]
    assert decoded == [row.astype("<f4").tobytes() for row in vectors_of(numbers)]
    assert output["scores"] == numbers["scores"]


def test_normalize_replaces_the_vectors_by_unit_vectors(server: Server, python: Embedder) -> None:
    output = output_of(server, query=QUERY, document=DOCUMENT, normalize=True)
    vectors = vectors_of(output)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(2), abs=1e-5)
    truth = [
        python.encode_query(QUERY, normalize=True),
        python.encode_document(DOCUMENT, normalize=True),
    ]
    assert_same(vectors, np.stack(truth))
    raw = output_of(server, query=QUERY, document=DOCUMENT)
    assert output["score"] == pytest.approx(raw["score"], abs=1e-2)


def test_dimensions_are_cut_before_normalising(server: Server, python: Embedder) -> None:
    output = output_of(server, query=QUERY, document=DOCUMENT, dimensions=24, normalize=True)
    vectors = vectors_of(output)
    assert vectors.shape == (2, 24)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(2), abs=1e-5)
    whole = np.stack([python.encode_query(QUERY), python.encode_document(DOCUMENT)])[:, :24]
    assert_same(vectors, whole / np.linalg.norm(whole, axis=1, keepdims=True))
    assert output["score"] == pytest.approx(100 * float(vectors[0] @ vectors[1]), abs=1e-2)


def test_all_dimensions_may_be_asked_for(server: Server, python: Embedder) -> None:
    output = output_of(server, document=DOCUMENT, dimensions=python.engine.hidden_size)
    assert len(output["embeddings"][0]) == python.engine.hidden_size


def test_a_named_task_is_its_instruction(server: Server, python: Embedder) -> None:
    named = output_of(server, task="SciFact", query=QUERY)
    written = output_of(server, task=TASKS["SciFact"].instruction, query=QUERY)
    assert named["embeddings"] == written["embeddings"]
    assert_same(vectors_of(named), python.encode_query([QUERY], task="SciFact"))


def test_without_a_task_queries_are_web_searches(server: Server) -> None:
    default, named = (
        output_of(server, query=QUERY, **task)["embeddings"]
        for task in ({}, {"task": "web_search_query"})
    )
    assert default == named


def test_an_empty_task_embeds_the_query_bare(server: Server) -> None:
    query, document = output_of(server, task="", query=QUERY, document=QUERY)["embeddings"]
    assert query == document


@pytest.mark.parametrize("task", [{"task": "Match", "symmetric": True}, {"task": "sts_query"}])
def test_in_a_symmetric_task_documents_are_embedded_as_queries(
    server: Server, python: Embedder, task: dict[str, Any]
) -> None:
    output = output_of(server, query=QUERY, document=QUERY, **task)
    assert output["embeddings"][0] == output["embeddings"][1]
    assert output["score"] == pytest.approx(100, abs=1e-2)
    assert_same(vectors_of(output)[:1], python.encode_query([QUERY], task=task["task"]))


def test_null_means_not_given(server: Server) -> None:
    nothing_else = dict.fromkeys(INPUTS.split(", "))
    output = output_of(server, **{**nothing_else, "query": QUERY})
    assert output["embeddings"] == output_of(server, query=QUERY)["embeddings"]


def test_usage_tells_the_tokens_of_each_text_and_what_was_cut(
    server: Server, python: Embedder
) -> None:
    texts = ["short", " ".join(WORDS * 400)]
    usage = output_of(server, documents=texts, dimensions=1)["usage"]
    encodings = python.tokenizer.encode(texts)
    assert usage["tokens"] == [len(encoding.token_ids) for encoding in encodings]
    assert usage["tokens"][1] == python.tokenizer.max_length
    assert usage["truncated"] == [False, True]


def test_the_model_is_named_by_its_folder_and_fingerprint(server: Server, python: Embedder) -> None:
    names = {output_of(server, document=text, dimensions=1)["model"] for text in ("a", "b")}
    assert names == {python.name}
    assert re.fullmatch(r"e5-mini@[0-9a-f]{12}", python.name)


def test_metrics_tell_what_the_prediction_cost(server: Server) -> None:
    answer = server.predict({"query": QUERY, "document": DOCUMENT})
    metrics = answer["metrics"]
    assert metrics["tokens"] == sum(answer["output"]["usage"]["tokens"])
    assert metrics["batch_texts"] == 2
    assert metrics["queue_ms"] >= 0
    assert 0 < metrics["forward_ms"] <= 1000 * metrics["predict_time"]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "nul \x00 bell \x07 escape \x1b[0m delete \x7f",
        "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}",
        "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
        "</s> <s> [INST] {task} %s \\ud800 \\n",
        "line\nline\r\nline\u2028line",
    ],
)
def test_any_text_is_embedded_as_it_is(server: Server, python: Embedder, text: str) -> None:
    output = output_of(server, query=text, document=text)
    truth = np.stack([python.encode_query(text), python.encode_document(text)])
    assert_same(vectors_of(output), truth)


# What is refused

BAD = [
    ({}, "query, document", "send at least one query or document"),
    ({"queries": [], "documents": []}, "query, document", "send at least one query or document"),
    ({"query": "   "}, "query", "send text, or leave the field out"),
    ({"documents": ["a", "\n\t"]}, "documents[1]", "send text, or leave the field out"),
    ({"query": 5}, "query", "send a string"),
    ({"document": ["a"]}, "document", "send a string"),
    ({"query": "q", "task": 7}, "task", "send a string"),
    ({"queries": "abc"}, "queries", "send a list of strings"),
    ({"documents": {"a": "b"}}, "documents", "send a list of strings"),
    ({"queries": ["a", "b", 5]}, "queries[2]", "send a string"),
    ({"documents": [None]}, "documents[0]", "send a string"),
    ({"query": "q", "symmetric": "yes"}, "symmetric", "send true or false"),
    ({"query": "q", "normalize": 1}, "normalize", "send true or false"),
    ({"query": "q", "truncate": "no"}, "truncate", "send true or false"),
    ({"query": "q", "dimensions": 0}, "dimensions", "send 1 or more"),
    ({"query": "q", "dimensions": -1}, "dimensions", "send 1 or more"),
    ({"query": "q", "dimensions": 1.5}, "dimensions", "send a whole number"),
    ({"query": "q", "dimensions": True}, "dimensions", "send a whole number"),
    ({"query": "q", "dimensions": "8"}, "dimensions", "send a whole number"),
    ({"query": "q", "dimensions": 193}, "dimensions", "use 1 to 192"),
    ({"query": "q", "encoding_format": "hex"}, "encoding_format", "send 'float' or 'base64'"),
    ({"query": "q", "encoding_format": 4}, "encoding_format", "send 'float' or 'base64'"),
    ({"query": "q", "passage": "p"}, "passage", f"the inputs are {INPUTS}"),
    ({"query": "q", "cls": "p"}, "cls", f"the inputs are {INPUTS}"),
    ({"query": "q", "self": "p"}, "self", f"the inputs are {INPUTS}"),
    ({"documents": ["x"] * (MAX_TEXTS + 1)}, "queries, documents", "send at most 2048"),
    ({"document": "x" * (MAX_CHARACTERS + 1)}, "document", "send at most 1000000 characters"),
    (
        {"documents": ["a", " ".join(WORDS * 400)], "truncate": False},
        "documents[1]",
        "shorten it to 4096 tokens or allow truncation",
    ),
]


@pytest.mark.parametrize(("inputs", "field", "remedy"), BAD)
def test_bad_input_is_refused_in_one_sentence_with_field_and_remedy(
    server: Server, inputs: dict[str, Any], field: str, remedy: str
) -> None:
    error = refusal_of(server, **inputs)
    assert f"InputError: {field}: received " in error
    assert remedy in error
    assert len(error) < 400


def test_what_callers_did_wrong_leaves_no_traceback_in_the_log(server: Server) -> None:
    before = len(server.log)
    refusal_of(server, queries=["a", 5])
    refused = server.log[before:]
    assert "refused: queries[1]: received 5; send a string." in refused
    assert "Traceback" not in refused


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"input": {"query": "q"', "application/json", 400),
        (b'{"input": {"query": "\\ud800"}}', "application/json", 400),
        (b'{"input": {"query": "q", "dimensions": NaN}}', "application/json", 400),
        (b'{"input": {"query": "\xff"}}', "application/json", 400),
        (b"", "application/json", 400),
        (b'{"input": {"query": "q"}}', "text/plain", 415),
        (b"query=q", "application/x-www-form-urlencoded", 415),
    ],
)
def test_what_is_not_json_is_refused_by_the_server(
    server: Server, body: bytes, content_type: str, status: int
) -> None:
    response = server.post(content=body, headers={"Content-Type": content_type})
    assert response.status_code == status
    assert "Traceback" not in response.text
    assert output_of(server, document="still here", dimensions=1)["embeddings"]


# With the schema file, as in an image


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"query": 5}, "query"),
        ({"query": None}, "query"),  # Cog refuses null even where leaving the input out is fine
        ({"queries": "abc"}, "queries"),
        ({"queries": ["a", 5]}, "queries/1"),
        ({"query": "q", "task": ["a"]}, "task"),
        ({"query": "q", "symmetric": "yes"}, "symmetric"),
        ({"query": "q", "normalize": 1}, "normalize"),
        ({"query": "q", "truncate": "no"}, "truncate"),
        ({"query": "q", "dimensions": 0}, "dimensions"),
        ({"query": "q", "dimensions": 1.5}, "dimensions"),
        ({"query": "q", "dimensions": True}, "dimensions"),
        ({"query": "q", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_with_a_schema_cog_refuses_wrong_types_and_says_where(
    server_with_schema: Server, inputs: dict[str, Any], field: str
) -> None:
    response = server_with_schema.post(json={"input": inputs})
    assert response.status_code == 422
    assert [detail["loc"][:3] for detail in response.json()["detail"]] == [["body", "input", field]]
    assert output_of(server_with_schema, document="still here", dimensions=1)["embeddings"]


@pytest.mark.parametrize(
    ("inputs", "field", "remedy"),
    [
        ({}, "query, document", "send at least one query or document"),
        ({"documents": ["a", " "]}, "documents[1]", "send text, or leave the field out"),
        ({"query": "q", "dimensions": 193}, "dimensions", "use 1 to 192"),
        ({"documents": ["x"] * (MAX_TEXTS + 1)}, "queries, documents", "send at most 2048"),
    ],
)
def test_with_a_schema_what_it_cannot_say_is_still_refused_by_us(
    server_with_schema: Server, inputs: dict[str, Any], field: str, remedy: str
) -> None:
    error = refusal_of(server_with_schema, **inputs)
    assert f"InputError: {field}: received " in error
    assert remedy in error


def test_with_a_schema_the_answers_are_the_same(
    server: Server, server_with_schema: Server, python: Embedder
) -> None:
    inputs = {"query": QUERY, "documents": [DOCUMENT, "short"], "task": "NQ", "dimensions": 64}
    output, checked = (output_of(each, **inputs) for each in (server, server_with_schema))
    assert_same(vectors_of(checked), vectors_of(output))
    assert checked["model"] == output["model"] == python.name


def test_with_a_schema_every_input_may_be_left_out(server_with_schema: Server) -> None:
    assert len(output_of(server_with_schema, document=DOCUMENT)["embeddings"]) == 1
    assert len(output_of(server_with_schema, queries=[QUERY, "q"])["embeddings"]) == 2


def test_with_a_schema_cog_drops_unknown_inputs_before_we_can_name_them(
    server_with_schema: Server,
) -> None:
    assert len(output_of(server_with_schema, document=DOCUMENT, passage="p")["embeddings"]) == 1


def test_the_schema_is_published(server_with_schema: Server) -> None:
    published = server_with_schema.client.get("/openapi.json").json()
    ours = json.loads((Path(__file__).parent / "openapi_schema.json").read_text(encoding="utf-8"))
    assert published == ours


# Many at once, and leaving early


def test_many_clients_at_once_get_each_their_own_vectors(server: Server, python: Embedder) -> None:
    chance = random.Random(1)
    requests = [
        [some_texts(chance.randint(1, 3), chance.randint(1, 25), chance) for _ in range(4)]
        for _ in range(64)
    ]

    def client(mine: list[list[str]]) -> list[dict[str, Any]]:
        return [server.predict({"queries": texts, "documents": texts}) for texts in mine]

    with ThreadPoolExecutor(len(requests)) as clients:
        answers = list(clients.map(client, requests))
    merged = 0
    for mine, theirs in zip(requests, answers, strict=True):
        for texts, answer in zip(mine, theirs, strict=True):
            assert answer["status"] == "succeeded", answer
            truth = np.concatenate([python.encode_query(texts), python.encode_document(texts)])
            assert_same(vectors_of(answer["output"]), truth)
            merged += answer["metrics"]["batch_texts"] > 2 * len(texts)
    assert merged > 0, "no two requests shared a forward"


def a_long_job(chance: random.Random) -> dict[str, Any]:
    """More than a second of work."""
    return {"documents": some_texts(200, 150, chance), "dimensions": 1}


def test_a_cancelled_prediction_ends_and_leaves_the_server_answering(server: Server) -> None:
    body = {"id": "to-be-cancelled", "input": a_long_job(random.Random(2))}
    with ThreadPoolExecutor(1) as background:
        prediction = background.submit(server.post, json=body)
        while server.client.post("/predictions/to-be-cancelled/cancel").status_code == 404:
            assert not prediction.done()
        answer = prediction.result().json()
    # Cog has another word for it where the call comes before `run` has begun.
    assert answer["status"] == "canceled" or "CancelationException" in answer["error"]
    assert output_of(server, document=DOCUMENT)["embeddings"]


def test_a_client_that_hangs_up_leaves_the_server_answering(server: Server) -> None:
    before = len(server.log)
    body = {"id": "abandoned", "input": a_long_job(random.Random(3))}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            server.client.base_url.join("/predictions"), json=body, timeout=0.5, trust_env=False
        )
    assert output_of(server, document=DOCUMENT)["embeddings"]
    end = time.monotonic() + 10
    while not re.search("Prediction cancelled.*abandoned", server.log):
        assert time.monotonic() < end, "it was computed to its end"
        time.sleep(0.02)
    assert "Traceback" not in server.log[before:]


def test_on_sigterm_a_running_prediction_is_still_answered(python: Embedder) -> None:
    job = a_long_job(random.Random(4))
    one_slot = {**SETTINGS, "COG_MAX_CONCURRENCY": "1"}  # so that BUSY means: it is running
    with (
        serve(WEIGHTS, env=one_slot) as server,
        ThreadPoolExecutor(1) as background,
    ):
        prediction = background.submit(server.predict, job)
        server.wait_for("BUSY")
        server.process.send_signal(signal.SIGTERM)
        answer = prediction.result()
        assert answer["status"] == "succeeded"
        assert_same(
            vectors_of(answer["output"]), python.encode_document(job["documents"], dimensions=1)
        )
        assert server.process.wait(30) == 0


# Refusing to start


def test_a_missing_weights_folder_is_named_with_both_ways_on() -> None:
    with serve(Path("weights/no-such-model"), until="SETUP_FAILED") as server:
        logs = server.health()["setup"]["logs"]
        assert "weights/no-such-model: there is no such weights folder" in logs
        assert "./scripts/download_weights" in logs
        assert "E5_WEIGHTS=weights/e5-mini" in logs
        assert server.client.post("/predictions", json={"input": {"query": "q"}}).status_code == 503


def test_a_misspelt_setting_is_named_with_those_there_are() -> None:
    with serve(WEIGHTS, env={"E5_MAX_LENGHT": "512"}, until="SETUP_FAILED") as server:
        logs = server.health()["setup"]["logs"]
        assert "E5_MAX_LENGHT: no such setting; there are E5_WEIGHTS, " in logs
        assert "E5_MAX_LENGTH" in logs
