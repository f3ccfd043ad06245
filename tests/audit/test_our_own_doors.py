"""Every door of the gateway is audited: right as it is, and named if something is done to it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fake_http import Asked, Reply, serve_http
from gateway_tools import LocalGateway

from e5.audit.dialects import DIALECTS
from e5.audit.endpoint import EndpointAddress, sample_endpoint
from e5.audit.gathered import Gathered, judge
from e5.audit.local_source import LocalSource
from e5.audit.own_texts import OWN_TEXTS
from e5.audit.report import AuditReport
from e5.embedder import Embedder
from e5.gateway import InProcessBackend
from e5.prompts import DEFAULT_TASK
from e5.serving import Service
from e5.settings import Settings

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-test"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def source(checkpoint: Any) -> LocalSource:
    """Keeps what it has computed, so that an audit after the first one costs little."""
    return LocalSource.load(Settings(weights=checkpoint, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def local(embedder: Embedder) -> LocalGateway:
    """A gateway that wants a key."""
    backend = InProcessBackend(embedder, Service.of(embedder, max_queue_tokens=1_000_000))
    return LocalGateway(backend, model=embedder.name, keys=[KEY])


def audited(
    local: LocalGateway,
    source: LocalSource,
    dialect: str,
    *,
    before: Change = lambda _: None,
    after: Change = lambda _: None,
    query_name: str | None = None,
    count: int = len(OWN_TEXTS),
) -> tuple[Gathered, AuditReport]:
    """The audit of a gateway, with what stands before it and changes bodies and answers."""

    def answer(request: Asked) -> Reply:
        body = request.body
        before(body)
        headers = {name: text for name, text in request.headers.items() if "ength" not in name}
        response = local.send(request.method, request.path, json=body, headers=headers)
        answered = response.json()
        after(answered)
        return response.status_code, answered

    model = local.gateway._model_names.names[0]
    with serve_http(answer) as url:
        address = EndpointAddress(url, dialect, model, query_name, KEY)
        story = sample_endpoint(address, task=DEFAULT_TASK, prompts=source.prompts, count=count)
        gathered = asyncio.run(story)
    return gathered, judge(gathered, source, progress=False)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_door_is_right(dialect: str, local: LocalGateway, source: LocalSource) -> None:
    # One of them is asked for the long texts too.
    count = len(OWN_TEXTS) if dialect == "openai" else 14
    gathered, report = audited(local, source, dialect, count=count)
    assert report.verdict == "right"
    assert report.share == 1
    assert report.exit_code == 0
    assert gathered.batched is None
    assert not gathered.left_out
    assert not gathered.remarks


@pytest.mark.long
@pytest.mark.parametrize("dialect", ["openai", "ollama", "tei"])
def test_a_door_that_has_a_name_for_queries_is_right(
    dialect: str, local: LocalGateway, source: LocalSource
) -> None:
    name = "query" if dialect == "tei" else f"{local.gateway._model_names.names[0]}-query"
    _, report = audited(local, source, dialect, query_name=name)
    assert report.verdict == "right"


def drop_role(body: dict[str, Any]) -> None:
    body.pop("input_type")


def everything_is_a_query(body: dict[str, Any]) -> None:
    body["input_type"] = "query"


def replace_newlines(body: dict[str, Any]) -> None:
    body["input"] = [text.replace("\n", " ") for text in body["input"]]


def strip(body: dict[str, Any]) -> None:
    body["input"] = [text.strip() for text in body["input"]]


def lower(body: dict[str, Any]) -> None:
    body["input"] = [text.lower() for text in body["input"]]


def double(body: dict[str, Any]) -> None:
    if body["input_type"] == "query":
        body["input"] = [
            f"Instruct: {DEFAULT_TASK}\nQuery: Instruct: {DEFAULT_TASK}\nQuery: {text}"
            for text in body["input"]
        ]
        body["input_type"] = "passage"


def keep_32(answer: dict[str, Any]) -> None:
    for each in answer["data"]:
        each["embedding"] = each["embedding"][:32]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (drop_role, None, "no_instruction"),
        (everything_is_a_query, None, "instruction_on_document"),
        (double, None, "double_instruction"),
        (replace_newlines, None, "newlines_replaced"),
        pytest.param(strip, None, "stripped", marks=pytest.mark.long),
        pytest.param(lower, None, "lowercased", marks=pytest.mark.long),
        pytest.param(None, keep_32, "right + dimensions 32", marks=pytest.mark.long),
    ],
    ids=lambda change: getattr(change, "__name__", ""),
)
def test_a_mistake_before_the_door_is_named(
    before: Change | None,
    after: Change | None,
    verdict: str,
    local: LocalGateway,
    source: LocalSource,
) -> None:
    nothing: Change = lambda _: None  # noqa: E731
    before, after = before or nothing, after or nothing
    _, report = audited(local, source, "nvidia", before=before, after=after)
    assert report.verdict == verdict


@pytest.mark.slow  # what nothing explains is searched for long
def test_an_answer_in_another_order_is_named(local: LocalGateway, source: LocalSource) -> None:
    def reverse(answer: dict[str, Any]) -> None:
        answer["data"] = answer["data"][::-1]

    gathered, report = audited(local, source, "nvidia", after=reverse, count=12)
    assert gathered.batched is not None
    assert report.verdict == "shuffled"
    assert gathered.sample.ids == gathered.batched.ids
