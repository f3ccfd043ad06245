"""The service as its callers see it: the real Cog server over HTTP, on the built-in checkpoint.

The truth is the Python API on the same checkpoint in the same dtype.
"""

import base64
import json
import random
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from asking import (
    DOCUMENT,
    QUERY,
    SETTINGS,
    WEIGHTS,
    WORDS,
    output_of,
    some_texts,
    vectors_of,
)
from checkpoints import load
from reference import assert_same
from server import PREDICTIONS, ROOT, Server, serve
from waiting import wait_until

from e5.embedder import Embedder
from e5.prompts import DEFAULT_TASK, TASKS
from e5.serving import EmbedRequest

pytestmark = pytest.mark.slow  # starts servers

COG_FILE_BYTES = 6 * 2**20  # Cog writes larger answers into files


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server without a schema file: every check is ours."""
    with serve(WEIGHTS, env=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def python() -> Embedder:
    return load(ROOT / WEIGHTS)


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
    written = [repr(number) for row in numbers["embeddings"] for number in row]
    digits = [len(number.lstrip("-0.").replace(".", "").split("e")[0]) for number in written]
    assert max(digits) <= 9, "json wrote them, which takes ten times as long"


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


def test_dimensions_are_truncated_before_normalising(server: Server, python: Embedder) -> None:
    output = output_of(server, query=QUERY, document=DOCUMENT, dimensions=24, normalize=True)
    vectors = vectors_of(output)
    assert vectors.shape == (2, 24)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(2), abs=1e-5)
    whole = np.stack([python.encode_query(QUERY), python.encode_document(DOCUMENT)])[:, :24]
    assert_same(vectors, whole / np.linalg.norm(whole, axis=1, keepdims=True))
    assert output["score"] == pytest.approx(100 * float(vectors[0] @ vectors[1]), abs=1e-2)


def test_all_dimensions_may_be_asked_for(server: Server, python: Embedder) -> None:
    output = output_of(server, document=DOCUMENT, dimensions=python.dimensions)
    assert len(output["embeddings"][0]) == python.dimensions


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


def test_an_empty_task_adds_no_prompt_to_the_query(server: Server) -> None:
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
    nothing_else = dict.fromkeys(EmbedRequest.model_fields)
    output = output_of(server, **{**nothing_else, "query": QUERY})
    assert output["embeddings"] == output_of(server, query=QUERY)["embeddings"]


def test_usage_has_the_tokens_of_each_text_and_which_were_truncated(
    server: Server, python: Embedder
) -> None:
    texts = ["short", " ".join(WORDS * 400)]
    usage = output_of(server, documents=texts, dimensions=1)["usage"]
    tokenized = python.tokenize(documents=texts)
    assert usage["tokens"] == [len(encoding.token_ids) for encoding in tokenized]
    assert usage["tokens"][1] == python.max_length
    assert usage["truncated"] == [False, True]


def test_the_model_is_named_by_its_folder_and_fingerprint(server: Server, python: Embedder) -> None:
    names = {output_of(server, document=text, dimensions=1)["model"] for text in ("a", "b")}
    assert names == {python.name}
    assert re.fullmatch(r"e5-mini@[0-9a-f]{12}", python.name)


def test_metrics_say_what_the_prediction_cost(server: Server) -> None:
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


def test_many_clients_at_once_get_each_their_own_vectors(server: Server, python: Embedder) -> None:
    chance = random.Random(1)
    requests = [
        [some_texts(chance.randint(1, 3), chance.randint(1, 25), chance) for _ in range(3)]
        for _ in range(32)
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


def test_large_answers_in_numbers_all_arrive(server: Server, python: Embedder) -> None:
    """Cog writes each into a file, some time after the prediction has ended."""
    texts = [f"snow {number}" for number in range(700)]
    with ThreadPoolExecutor(3) as clients:
        answers = list(
            clients.map(lambda _: server.predict({"queries": texts, "documents": texts}), range(3))
        )
    assert len(json.dumps(answers[0]["output"])) > COG_FILE_BYTES
    truth = python.similarity(python.encode_query(texts), python.encode_document(texts))
    for answer in answers:
        assert answer["status"] == "succeeded", answer["error"]
        scores = np.array(answer["output"]["scores"], np.float32)
        np.testing.assert_allclose(scores, truth, atol=1e-2)


def test_a_large_answer_keeps_its_folder_longer_than_a_small_one(server: Server) -> None:
    large = server.predict({"documents": [f"snow {number}" for number in range(900)]})
    small = server.predict({"document": "snow"})
    wait_until(lambda: not (PREDICTIONS / small["id"]).exists())
    assert (PREDICTIONS / large["id"] / "outputs").exists()
    shutil.rmtree(PREDICTIONS / large["id"])
