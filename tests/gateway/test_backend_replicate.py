"""The gateway before Replicate: right inputs, one prediction a request, statuses by cause."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fake_http import Reply
from fake_replicate import (
    PROCESSING,
    STARTING,
    SUCCEEDED,
    TOKEN,
    FakeReplicate,
    fake_replicate,
)
from gateway_tools import LocalGateway, sentence_of

from e5.errors import E5Error, InputError, NonFiniteError, RequestTooLargeError
from e5.gateway.backend import RemoteBackend
from e5.prompts import DEFAULT_TASK

ADDRESS = "replicate-deployment:you/e5"
NAME = "toy@1"
BODY = {"model": "toy", "input": ["7", "8"]}
FIRST = SUCCEEDED  # what the gateway asks at its start


def answers_to(api: FakeReplicate, *bodies: dict[str, Any]) -> list[httpx2.Response]:
    """One request after the other to a gateway before this Replicate."""

    async def story() -> list[httpx2.Response]:
        backend = await RemoteBackend.find(ADDRESS)
        local = LocalGateway(backend, model=(await backend.info()).name)
        async with local.client() as client:
            answers = [await client.post("/v1/embeddings", json=body) for body in bodies]
        await backend.close()
        return answers

    assert api.url
    return asyncio.run(story())


@pytest.fixture
def healthy() -> Iterator[FakeReplicate]:
    with fake_replicate([FIRST, SUCCEEDED, STARTING], [PROCESSING, SUCCEEDED]) as api:
        yield api


@pytest.mark.slow
def test_queries_and_documents_are_one_prediction_each(healthy: FakeReplicate) -> None:
    answers = answers_to(healthy, BODY, BODY | {"input_type": "query"})
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-e5-model"] == NAME
        assert [row["embedding"][0] for row in answer.json()["data"]] == [7, 8]
    documents, queries = healthy.inputs[1:]
    assert documents["documents"] == queries["queries"] == ["7", "8"]
    assert queries["task"] == DEFAULT_TASK
    assert documents["normalize"] is queries["normalize"] is True


def failed(error: E5Error) -> Reply:
    """A prediction that failed, with its error as data."""
    sentence = f"{type(error).__name__}: {error}"
    metrics = {"error": error.to_dict()}
    return 201, {"status": "failed", "error": sentence, "metrics": metrics}


FAILURES: dict[str, tuple[Reply, int]] = {
    "throttled": ((429, {"detail": "Request was throttled. Your rate limit resets in ~9s."}), 429),
    "an input": (failed(InputError("documents[1]", "7", "send text")), 400),
    "no finite vector": (failed(NonFiniteError(1, "documents[1]")), 400),
    "too large": (failed(RequestTooLargeError(10, 5)), 413),
    "a crash": ((201, {"status": "failed", "error": "CUDA error"}), 502),
    "no money": ((402, {"detail": "Billing is not set up."}), 502),
    "its own trouble": ((500, {"detail": "Internal server error"}), 503),
    "aborted": ((201, {"status": "aborted"}), 502),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_has_its_status_and_is_asked_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply, status = FAILURES[name]
    with fake_replicate([FIRST, reply]) as api, caplog.at_level(logging.INFO):
        (answer,) = answers_to(api, BODY)
        assert len(api.creates) == 2  # the start's, and this one
    sentence = sentence_of(answer, status)
    assert TOKEN not in sentence + caplog.text
    if status == 400:
        assert sentence.startswith("input[1]: ")
    if status == 429:
        assert int(answer.headers["retry-after"]) >= 9
