"""A refused prediction has one sentence and the error as data; the next one is answered."""

import json
import random
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from asking import DOCUMENT, SETTINGS, WEIGHTS, WORDS, output_of, refused, some_texts, vectors_of
from checkpoints import load
from reference import assert_same
from server import ROOT, Server, serve
from waiting import SECONDS, wait_until

from e5.embedder import Embedder
from e5.errors import InputError
from e5.serving import EmbedRequest
from e5.texts import MAX_CHARACTERS

pytestmark = pytest.mark.slow  # starts servers


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server without a schema file: every check is ours."""
    with serve(WEIGHTS, env=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def python() -> Embedder:
    return load(ROOT / WEIGHTS)


BAD = [
    ({}, "query, document", "send at least one query or document"),
    ({"queries": [], "documents": []}, "query, document", "send at least one query or document"),
    ({"query": "   "}, "query", "send text, or leave it out"),
    ({"documents": ["a", "\n\t"]}, "documents[1]", "send text, or leave it out"),
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
    ({"query": "q", "passage": "p"}, "passage", "the inputs are task, query, "),
    ({"query": "q", "cls": "p"}, "cls", "the inputs are task, query, "),
    ({"query": "q", "self": "p"}, "self", "the inputs are task, query, "),
    ({"documents": ["x"] * 2049}, "queries, documents", "send at most 2048"),
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
    sentence, error = refused(server, inputs)
    assert f"InputError: {field}: received " in sentence
    assert remedy in sentence
    assert len(sentence) < 400
    assert sentence.endswith(str(error))
    assert isinstance(error, InputError)
    assert error.field == field
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "inputs",
    [
        {"query": "q", "a; received \"b\"; c. 'd': received e; f": 1},
        {"query": "q", "line\nline\x1b[31m\u2028\u202e\x00": 1},
        {"query": "q", "received ; " * 100: 1},
        {"query": "q", "documents[2]: received 7; send a string.": 1},
        {"query": "q", "\N{SNOWMAN} \N{GRINNING FACE}": 1},
        {"query": "q", "": 1},
        {"queries": ["a", "b", {"received": ["x; y", "\n"]}]},
        {"query": "q", "dimensions": "; received 'x'."},
        {"query": "q", "normalize": ["\u202e", None, 1e300]},
        {"query": "q", "encoding_format": 'hex"; send "base64'},
    ],
)
def test_an_error_comes_as_the_data_of_the_error_that_was_raised(
    server: Server, inputs: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as expected:
        EmbedRequest.parse(**inputs)
    sentence, error = refused(server, inputs)
    assert error.to_dict() == expected.value.to_dict()
    assert sentence.endswith(f"InputError: {expected.value}")


def test_what_callers_did_wrong_leaves_no_traceback_in_the_log(server: Server) -> None:
    before = len(server.log)
    refused(server, {"queries": ["a", 5]})
    log = server.log[before:]
    assert "refused: queries[1]: received 5; send a string." in log
    assert "Traceback" not in log


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


# Leaving early


def a_long_job(chance: random.Random, *, num_texts: int = 2000) -> dict[str, Any]:
    """Many seconds of work."""
    return {"documents": some_texts(num_texts, 150, chance), "dimensions": 1}


def test_a_cancelled_prediction_ends_and_leaves_the_server_answering(server: Server) -> None:
    body = {"id": "to-be-cancelled", "input": a_long_job(random.Random(2))}
    with ThreadPoolExecutor(1) as background:
        prediction = background.submit(server.post, json=body)
        wait_until(lambda: server.num_running() == 1)
        assert server.client.post("/predictions/to-be-cancelled/cancel").status_code == 200
        answer = prediction.result().json()
    # Cog has another word for it where the call comes before `run` has begun.
    assert answer["status"] == "canceled" or "CancelationException" in answer["error"]
    assert output_of(server, document=DOCUMENT)["embeddings"]


def test_a_client_that_hangs_up_leaves_the_server_answering(server: Server) -> None:
    before = len(server.log)
    address = ("127.0.0.1", server.client.base_url.port or 0)

    def hang_up(name: str) -> bool:
        """Whether Cog cancelled it; a job that ended before the hang-up was noticed is none."""
        body = {"id": name, "input": a_long_job(random.Random(3))}
        with closing(HTTPConnection(*address, timeout=SECONDS)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/predictions", json.dumps(body), headers)
            wait_until(lambda: server.num_running() == 1)
        assert output_of(server, document=DOCUMENT)["embeddings"]
        wait_until(lambda: server.num_running() == 0)
        return re.search(f"Prediction cancelled.*{name}", server.log) is not None

    assert any(hang_up(f"abandoned-{attempt}") for attempt in range(3))
    assert "Traceback" not in server.log[before:]


def test_on_sigterm_a_running_prediction_is_still_answered(python: Embedder) -> None:
    job = a_long_job(random.Random(4), num_texts=200)
    one_slot = {**SETTINGS, "COG_MAX_CONCURRENCY": "1"}  # so that BUSY means: it is running
    with (
        serve(WEIGHTS, env=one_slot) as server,
        ThreadPoolExecutor(1) as background,
    ):
        prediction = background.submit(server.predict, job)
        wait_until(lambda: server.health()["status"] == "BUSY" or prediction.done())
        server.process.send_signal(signal.SIGTERM)
        answer = prediction.result()
        assert answer["status"] == "succeeded"
        some = python.encode_document(job["documents"][-5:], dimensions=1)
        assert_same(vectors_of(answer["output"])[-5:], some)
        assert server.process.wait(SECONDS) == 0


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
        assert (
            "E5_MAX_LENGHT: received a setting that does not exist; use one of E5_WEIGHTS, " in logs
        )
        assert "E5_MAX_LENGTH" in logs
