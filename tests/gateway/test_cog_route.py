"""Cog's route at the gateway answers what the Cog server answers, by one more name."""

import asyncio
from typing import Any

import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, sentence_of

from e5.cog import Output
from e5.data_uris import ESCAPED, escape
from e5.embedder import Embedder
from e5.errors import (
    E5Error,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
)
from e5.serving import EmbedRequest, Service

QUERIES, DOCUMENTS = ["what is snow", "how warm is tea"], ["Frozen water.", "A car.", "Hot."]
INPUTS: list[dict[str, Any]] = [
    {"query": "snow"},
    {"query": "snow", "document": "Frozen water.", "normalize": True},
    {"queries": QUERIES, "documents": DOCUMENTS, "task": "SciFact"},
    {"documents": DOCUMENTS, "task": "sts_query", "dimensions": 8},
    {"documents": DOCUMENTS, "task": "Find twins", "symmetric": True},
    {"queries": QUERIES, "task": ""},
]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("inputs", INPUTS)
def test_the_output_is_that_of_predict_py(
    local: LocalGateway, embedder: Embedder, inputs: dict[str, Any], encoding_format: str
) -> None:
    inputs = inputs | {"encoding_format": encoding_format}
    response = local.post("/predictions", {"input": inputs})
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "succeeded"
    service = Service.of(embedder, max_queue_tokens=1_000_000)
    answer = asyncio.run(service.answer(EmbedRequest.parse(**inputs)))
    told = Output.of(answer, encoding_format=encoding_format).model_dump()
    found = response.json()["output"]
    assert found.keys() == told.keys()
    for name in ("embeddings", "score", "scores"):
        if told[name] is None:
            assert found[name] is None
        else:
            assert np.allclose(found[name], told[name], atol=1e-4)
    assert (found["embeddings_base64"] is None) == (told["embeddings_base64"] is None)
    assert found["usage"] == told["usage"]
    assert found["model"] == told["model"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, 'input: received nothing; send {"input": {"query": "..."}}.'),
        ({"input": []}, 'input: received []; send {"input": {"query": "..."}}.'),
        ({"input": "snow"}, 'input: received "snow"; send {"input": {"query": "..."}}.'),
        ({"input": {"queries": ["a", None]}}, "queries[1]: received null; send a string."),
        ({"input": {"query": "a", "dimensions": 9999}}, "dimensions: received 9999"),
        ({"input": {"query": "a", "colour": "red"}}, "colour: received an unknown input"),
    ],
)
def test_a_wrong_input_is_400_in_cog_s_form(local: LocalGateway, body: Any, sentence: str) -> None:
    response = local.post("/predictions", body)
    answer = response.json()
    assert response.status_code == 400
    assert answer["status"] == "failed"
    assert answer["message"].startswith(sentence)
    assert answer["error"] == f"InputError: {answer['message']}"


def test_a_text_that_is_a_data_uri_stays_what_it_is(fake: FakeBackend) -> None:
    uris = ["data:text/plain;base64,c25vdw==", "data:,ice", "data:text/plain;base64,c"]
    uris += [ESCAPED, f"{ESCAPED}c25vdw=="]
    local = LocalGateway(fake)
    for changed in (lambda text: text, lambda text: escape(text, "")):  # a stranger, and `Client`
        texts = list(map(changed, uris))
        inputs = {"task": texts[0], "query": texts[1], "queries": texts, "documents": texts}
        assert local.post("/predictions", {"input": inputs}).status_code == 200
        request = fake.asked.pop()
        assert (request.task, request.query) == (uris[0], uris[1])
        assert request.queries == request.documents == uris


def test_each_answer_says_what_was_put_before_the_texts(local: LocalGateway) -> None:
    def header(**inputs: Any) -> str:
        return local.post("/predictions", {"input": inputs}).headers["x-e5-prompt"]

    assert header(query="snow", document="ice", task="Find twins") == 'query "Find twins"'
    assert header(document="ice", task="Find twins") == "document"
    assert header(document="ice", task="Find twins", symmetric=True) == 'symmetric "Find twins"'


def test_health_check_is_that_of_cog(fake: FakeBackend) -> None:
    local = LocalGateway(fake)
    assert local.get("/health-check").json() == {"status": "READY"}
    fake.is_ready = False
    assert local.get("/health-check").json() == {"status": "UNHEALTHY"}
    assert sentence_of(local.get("/ready"), 503)


@pytest.mark.parametrize(
    "error",
    [
        NonFiniteError(0, "documents[0]"),
        OutOfMemoryError(7, 0, "documents[0]"),
        RequestTooLargeError(10, 5),
        QueueFullError(10, 5, 12),
    ],
)
def test_an_error_comes_as_data_beside_its_sentence(error: E5Error) -> None:
    response = LocalGateway(FakeBackend(outcome=error)).post(
        "/predictions", {"input": {"document": "a"}}
    )
    body = response.json()
    assert body["metrics"] == {"error": error.to_dict()}
    again = E5Error.from_dict(body["metrics"]["error"])
    assert (type(again), str(again)) == (type(error), str(error))
    assert body["error"] == f"{type(error).__name__}: {error}"


def test_what_a_remote_service_says_of_itself_stays_with_the_operator() -> None:
    error = ServiceError("http://secret: busy.", cause="busy", retry_after=7)
    response = LocalGateway(FakeBackend(outcome=error)).post(
        "/predictions", {"input": {"document": "a"}}
    )
    assert "secret" not in response.text
    again = E5Error.from_dict(response.json()["metrics"]["error"])
    assert isinstance(again, ServiceError)
    assert (again.cause, again.retry_after) == ("busy", 7)
