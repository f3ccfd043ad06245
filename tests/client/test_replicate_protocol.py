"""Replicate's HTTP from the outside: every way it is known to misbehave, over real sockets."""

import asyncio
import json
import logging
import pickle
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cog import failed
from fake_http import HALF, Reply
from fake_replicate import (
    ID,
    PROCESSING,
    STARTING,
    SUCCEEDED,
    TOKEN,
    VERSION,
    fake_replicate,
)
from ports import free_port
from remote_calls import INPUTS, health, with_service
from remote_calls import embed as embed_at

from e5.client import RemoteAnswer, RemoteService, replicate_protocol
from e5.client.transport import ClientLimits, HttpResponse, retry_after
from e5.errors import (
    E5Error,
    EngineError,
    InputError,
    NonFiniteError,
    QueueFullError,
    ServiceError,
)

MODEL = f"replicate:you/e5:{VERSION}"
THROTTLED: Reply = (
    429,
    {"detail": "Request was throttled. Your rate limit resets in ~1s.", "status": 429},
)
BROKEN: Reply = (500, {"detail": "Internal server error", "status": 500})


QUICK = ClientLimits(first_poll=0.01)


def embed(address: str = MODEL, *, limits: ClientLimits = QUICK, **options: Any) -> RemoteAnswer:
    return embed_at(address, limits=limits, **options)


def refusal(address: str = MODEL, **options: Any) -> ServiceError:
    """The error that the request ends in: one safe line with the address and without the token."""
    with pytest.raises(ServiceError) as caught:
        embed(address, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"{address}: ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 700
    assert TOKEN not in repr(caught.value)
    return caught.value


def is_right(embedded: RemoteAnswer) -> bool:
    return embedded.model == "toy@1" and embedded.vectors.tolist() == [[7, 1, 0, 0]]


# What goes over the wire


def test_a_version_is_run_as_it_is_named() -> None:
    with fake_replicate() as api:
        assert is_right(embed(f"replicate:you/e5:{VERSION}"))
    assert [(each.method, each.path) for each in api.asked] == [("POST", "/v1/predictions")]
    sent = api.asked[0]
    assert sent.body == {"version": VERSION, "input": INPUTS}
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["Prefer"] == "wait=9"  # at most half of the deadline
    assert sent.headers["Cancel-After"] == "20s"


def test_without_a_version_the_newest_is_asked_for_once(caplog: pytest.LogCaptureFixture) -> None:
    with fake_replicate() as api, caplog.at_level(logging.INFO, "e5"):

        async def use(service: RemoteService) -> None:
            for _ in range(2):
                assert is_right(await service.embed(INPUTS))

        with_service("replicate:you/e5", use)
        paths = [each.path for each in api.asked]
        assert paths == ["/v1/models/you/e5", "/v1/predictions", "/v1/predictions"]
        assert [each.body["version"] for each in api.creates] == [VERSION, VERSION]
        assert caplog.messages == [f"replicate:you/e5: its newest version is {VERSION}"]


def test_a_deployment_has_its_own_route() -> None:
    with fake_replicate([STARTING], [PROCESSING, SUCCEEDED]) as api:
        assert is_right(embed("replicate-deployment:you/e5"))
    assert api.asked[0].path == "/v1/deployments/you/e5/predictions"
    assert api.asked[0].body == {"input": INPUTS}
    assert len(api.polls) == 2


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_base_may_end_as_replicate_s_own_client_has_it(end: str) -> None:
    with fake_replicate([STARTING]) as api:
        api.environment.setenv("REPLICATE_BASE_URL", api.url + end)
        assert is_right(embed())


@pytest.mark.parametrize(
    ("deadline", "prefer", "cancel_after"),
    [(300, "wait=10", "300s"), (6.5, "wait=3", "7s"), (1.5, None, "5s")],
)
def test_a_create_waits_for_at_most_half_the_deadline_and_ends_with_it(
    deadline: float, prefer: str | None, cancel_after: str
) -> None:
    with fake_replicate() as api:
        embed(deadline=deadline)
    headers = api.creates[0].headers
    assert headers.get("Prefer") == prefer
    assert headers["Cancel-After"] == cancel_after


def test_polls_come_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    patched = SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
    monkeypatch.setattr(replicate_protocol, "asyncio", patched)
    with fake_replicate([STARTING], [*[PROCESSING] * 5, SUCCEEDED]) as api:
        embed(deadline=300, limits=ClientLimits())
    assert pauses == [0.25, 0.5, 1, 2, 2, 2]
    assert {(poll.method, poll.path) for poll in api.polls} == {("GET", f"/v1/predictions/{ID}")}


# How a prediction goes


@pytest.mark.parametrize(
    ("creates", "polls"),
    [
        pytest.param([STARTING], [STARTING, PROCESSING, SUCCEEDED], id="it starts cold"),
        pytest.param([PROCESSING], [SUCCEEDED], id="it takes longer than we wait"),
        pytest.param([STARTING], [BROKEN, SUCCEEDED], id="HTTP 500 of a poll"),
        pytest.param([STARTING], [(502, b"<html>"), b"", HALF, SUCCEEDED], id="polls get lost"),
        pytest.param([STARTING], [(429, {"detail": "x"}), SUCCEEDED], id="a throttled poll"),
        pytest.param([STARTING], [(200, {"status": "queued"}), SUCCEEDED], id="a new status"),
    ],
)
def test_it_is_waited_for(creates: list[Reply], polls: list[Reply]) -> None:
    with fake_replicate(creates, polls) as api:
        assert is_right(embed())
    assert len(api.creates) == 1
    assert len(api.polls) == len(polls)
    assert api.cancels == []


@pytest.mark.parametrize("ended", ["create", "poll"])
@pytest.mark.parametrize("status", ["aborted", "canceled"])
def test_a_prediction_that_somebody_else_ended_is_an_error_at_once(status: str, ended: str) -> None:
    last: Reply = (200, {"status": status, "output": None})
    with fake_replicate([last if ended == "create" else STARTING], [last]) as api:
        error = refusal()
    assert str(error) == f'{MODEL}: the prediction ended as "{status}"; try again.'
    assert error.cause == "other"
    assert (len(api.creates), len(api.cancels)) == (1, 0)


@pytest.mark.parametrize("polled", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        InputError("documents[0]", "7", "send a string"),
        NonFiniteError(0, "documents[0]"),
        QueueFullError(9, 5, 10),  # to create it again would be billed again
        "Prediction interrupted; please retry (code: PA)",
    ],
)
def test_a_failure_is_the_service_s_own_error_and_billed_once(
    error: E5Error | str, polled: bool
) -> None:
    with fake_replicate([STARTING if polled else failed(error)], [failed(error)]) as api:
        with pytest.raises(E5Error) as caught:
            embed()
        assert (len(api.creates), len(api.cancels)) == (1, 0)
    if isinstance(error, E5Error):
        assert caught.value.to_dict() == error.to_dict()
    else:
        assert type(caught.value) is EngineError
        assert error in str(caught.value)


@pytest.mark.parametrize("output", [None, "https://replicate.delivery/out.json", [], {"x": 1}])
def test_an_output_that_is_not_the_service_s_is_an_error(output: Any) -> None:
    with fake_replicate([(200, {"status": "succeeded", "output": output})]):
        assert "its output is not that of this service" in str(refusal())


# A create is billed


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        (BROKEN, 'Replicate answered HTTP 500: "Internal server error"; try again.'),
        ((503, b""), "Replicate answered HTTP 503: an empty body; try again."),
        (b"", "no answer to a prediction that was sent (Server disconnected"),
        (HALF, "it was not sent twice, because it may have begun and is billed."),
        ((200, b"<html>"), 'Replicate answered HTTP 200: "<html>"; check REPLICATE_BASE_URL'),
    ],
)
def test_a_prediction_that_may_have_begun_is_not_created_again(reply: Reply, part: str) -> None:
    with fake_replicate([reply, SUCCEEDED]) as api:
        error = refusal()
    assert part in str(error)
    assert len(api.creates) == 1
    assert error.cause == ("other" if "200" in part else "unreachable")


@pytest.mark.slow
def test_a_create_without_an_answer_fails_and_is_not_sent_again() -> None:
    ended = threading.Event()

    def silent() -> Any:
        ended.wait(60)
        yield b""

    with fake_replicate([silent(), SUCCEEDED]) as api:
        error = refusal(limits=ClientLimits(create_silence=0.5))
        ended.set()
    assert "that was sent (silent for 0.5 s)" in str(error)
    assert len(api.creates) == 1


@pytest.mark.slow
def test_a_throttled_create_is_sent_again_after_the_seconds_it_names() -> None:
    with fake_replicate([THROTTLED, SUCCEEDED]) as api:
        started = time.monotonic()
        assert is_right(embed())
        assert time.monotonic() - started >= 1
    assert len(api.creates) == 2


def test_a_throttled_create_is_busy_where_nobody_waits() -> None:
    for retry_seconds, deadline in ((0.0, 20.0), (None, 1.9)):
        with fake_replicate([THROTTLED]) as api:
            error = refusal(retry_seconds=retry_seconds, deadline=deadline)
        for each in (error, pickle.loads(pickle.dumps(error))):
            assert (each.cause, each.retry_after) == ("busy", 1)
        assert 'at the moment (HTTP 429: "Request was throttled.' in str(error)
        assert len(api.creates) == 1


@pytest.mark.parametrize(
    ("detail", "headers", "seconds"),
    [
        ("Your rate limit resets in ~30s.", {"retry-after": "7"}, 30),
        ("resets in 8s.", {}, 8),
        (None, {"retry-after": "7", "ratelimit-reset": "3"}, 7),
        (7, {"ratelimit-reset": "3"}, 3),
        ("x", {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "ratelimit-reset": "2"}, 2),
        ("x", {"ratelimit-reset": "1767225600"}, None),
        ("x", {"retry-after": "-1"}, None),
        ("x", {}, None),
    ],
)
def test_the_seconds_to_wait_are_read_from_three_places(
    detail: object, headers: dict[str, str], seconds: float | None
) -> None:
    body = json.dumps({"detail": detail}).encode()
    assert retry_after(HttpResponse(429, headers, body)) == seconds


def test_a_connection_that_never_was_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    error = refusal(retry_seconds=0.5)
    assert time.monotonic() - started > 0.1
    assert "no connection ([Errno 111] Connection refused); check the network" in str(error)
    assert error.cause == "unreachable"


# The deadline


@pytest.mark.slow
def test_at_the_deadline_it_is_canceled() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:
        error = refusal(deadline=1)
    assert "the deadline of 1 s; allow a longer deadline, or keep an instance" in str(error)
    assert error.cause == "deadline"
    assert (len(api.creates), len(api.cancels)) == (1, 1)
    assert len(api.polls) > 1


@pytest.mark.parametrize("poll", [(401, b""), (404, {"detail": "gone"}), (200, b"<html>")])
def test_a_poll_that_fails_for_good_cancels_too(poll: Reply) -> None:
    with fake_replicate([STARTING], [poll]) as api:
        refusal()
    assert (len(api.polls), len(api.cancels)) == (1, 1)


@pytest.mark.slow
def test_polls_that_fail_until_the_deadline_cancel_too() -> None:
    with fake_replicate([STARTING], [BROKEN]) as api:
        assert refusal(deadline=1, retry_seconds=0).cause == "unreachable"
    assert len(api.polls) > 1
    assert len(api.cancels) == 1


# Its health


def test_it_is_ready_where_the_account_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_replicate() as api:
        assert health(MODEL) == "READY"
        api.environment.setenv("REPLICATE_API_TOKEN", "another")
        assert health(MODEL) == ""
        assert [each.path for each in api.asked] == ["/v1/account"] * 2
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", api.url)
    assert health(MODEL) == ""
