"""Replicate's HTTP from the outside: every way it is known to misbehave, over real sockets."""

import doctest
import json
import logging
import pickle
import time
from contextlib import closing
from typing import Any

import pytest
from fake_cog import Inputs
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

from e5.client import replicate_protocol as replicate
from e5.client.prediction import RemoteAnswer
from e5.client.remote import Remote
from e5.client.replicate_protocol import Replicate, _seconds_named
from e5.client.wire import Answer, Request, Steps
from e5.errors import EngineError, InputError, NonFiniteError, QueueFullError, ServiceError

INPUTS: Inputs = {"documents": ["7"], "encoding_format": "base64"}
MODEL = f"replicate:you/e5:{VERSION}"
THROTTLED: Reply = (
    429,
    {"detail": "Request was throttled. Your rate limit resets in ~1s.", "status": 429},
)
BROKEN: Reply = (500, {"detail": "Internal server error", "status": 500})


@pytest.fixture(autouse=True)
def _polls_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicate, "FIRST_POLL", 0.01)
    monkeypatch.setattr(replicate, "LONGEST_POLL", 0.05)


def embed(
    address: str = MODEL, *, deadline: float = 20, patience: float | None = None
) -> RemoteAnswer:
    with closing(Remote(address, deadline=deadline, patience=patience)) as service:
        return service.run(service.dialect.embed(INPUTS))


def refusal(
    address: str = MODEL, *, deadline: float = 20, patience: float | None = None
) -> ServiceError:
    """The error that the request ends in: one safe line with the address and without the token."""
    with pytest.raises(ServiceError) as caught:
        embed(address, deadline=deadline, patience=patience)
    sentence = str(caught.value)
    assert sentence.startswith(f"{address}: ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 700
    assert TOKEN not in repr(caught.value)
    return caught.value


def is_right(embedded: RemoteAnswer) -> bool:
    return embedded.model == "toy@1" and embedded.vectors.tolist() == [[7, 1, 0, 0]]


def converse(steps: Steps[Any], *answers: Answer) -> list[Request]:
    """What the steps ask for, given these answers; the last request has none."""
    return [next(steps), *(steps.send(answer) for answer in answers)]


def answered(status: str) -> Answer:
    url = f'"{replicate.BASE_URL}/v1/predictions/{ID}"'
    return Answer(200, {}, f'{{"status": "{status}", "urls": {{"get": {url}}}}}'.encode())


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
        with closing(Remote("replicate:you/e5", deadline=20)) as service:
            for _ in range(2):
                assert is_right(service.run(service.dialect.embed(INPUTS)))
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
    deadline: float, prefer: str | None, cancel_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    [create] = converse(Replicate(MODEL, deadline=deadline).embed(INPUTS))
    assert create.headers.get("Prefer") == prefer
    assert create.headers["Cancel-After"] == cancel_after
    assert create.silence == 65
    assert TOKEN not in repr(create)


def test_polls_come_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the quick ones
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    answers = [answered("starting"), *[answered("processing")] * 5]
    _, *polls = converse(Replicate(MODEL, deadline=300).embed(INPUTS), *answers)
    assert [poll.after for poll in polls] == [0.25, 0.5, 1, 2, 2, 2]
    assert {(poll.method, poll.path) for poll in polls} == {("GET", f"/v1/predictions/{ID}")}


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
def test_what_was_ended_by_somebody_else_is_said_at_once(status: str, ended: str) -> None:
    last: Reply = (200, {"status": status, "output": None})
    with fake_replicate([last if ended == "create" else STARTING], [last]) as api:
        error = refusal()
    assert str(error) == f"{MODEL}: the prediction was {status}; try again."
    assert error.cause == "other"
    assert (len(api.creates), len(api.cancels)) == (1, 0)


@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        ("InputError: documents[0]: received 7; send a string.", InputError, "documents[0]: rec"),
        ("NonFiniteError: documents[0]: NaN; x.", NonFiniteError, "documents[0]: NaN; x."),
        ("QueueFullError: the queue is full; try again.", QueueFullError, "the queue is full"),
        ("Prediction interrupted; please retry (code: PA)", EngineError, "the service failed: "),
    ],
)
def test_a_failure_is_the_service_s_own_error(
    words: str, kind: type[Exception], sentence: str
) -> None:
    for prefix in ("", "Prediction failed: Async prediction failed: "):
        with fake_replicate(
            [STARTING], [(200, {"status": "failed", "error": prefix + words})]
        ) as api:
            with pytest.raises(kind) as caught:
                embed()
            assert type(caught.value) is kind
            assert str(caught.value).startswith(sentence)
            assert (len(api.creates), len(api.cancels)) == (1, 0)


@pytest.mark.parametrize("output", [None, "https://replicate.delivery/out.json", [], {"x": 1}])
def test_an_output_that_is_none_of_ours_is_said(output: Any) -> None:
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
def test_what_may_have_begun_is_not_sent_again(reply: Reply, part: str) -> None:
    with fake_replicate([reply, SUCCEEDED]) as api:
        error = refusal()
    assert part in str(error)
    assert len(api.creates) == 1
    assert error.cause == ("other" if "200" in part else "unreachable")


def test_a_silent_create_is_given_up_and_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicate, "CREATE_SILENCE", 0.3)

    def silent() -> Any:
        time.sleep(1)
        yield b""

    with fake_replicate([silent(), SUCCEEDED]) as api:
        error = refusal()
    assert "that was sent (silent for 0.3 s)" in str(error)
    assert len(api.creates) == 1


@pytest.mark.slow
def test_a_throttled_create_is_sent_again_after_the_seconds_it_names() -> None:
    with fake_replicate([THROTTLED, SUCCEEDED]) as api:
        started = time.monotonic()
        assert is_right(embed())
        assert 1 <= time.monotonic() - started < 20
    assert len(api.creates) == 2


def test_a_throttled_create_is_busy_where_nobody_waits() -> None:
    for patience, deadline in ((0.0, 20.0), (None, 1.0)):
        with fake_replicate([THROTTLED]) as api:
            error = refusal(patience=patience, deadline=deadline)
        for told in (error, pickle.loads(pickle.dumps(error))):
            assert (told.cause, told.retry_after) == ("busy", 1)
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
    assert _seconds_named(Answer(429, headers, body)) == seconds


def test_a_connection_that_never_was_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_replicate() as api:
        pass
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", api.url)
    started = time.monotonic()
    error = refusal(deadline=0.5)
    assert time.monotonic() - started > 0.1
    assert "no answer of Replicate ([Errno 111] Connection refused)" in str(error)
    assert error.cause == "unreachable"


# The deadline


def test_at_the_deadline_it_is_canceled() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:
        started = time.monotonic()
        error = refusal(deadline=0.5)
        assert time.monotonic() - started < 50
    assert "at the deadline of 0.5 s; give a longer one, or keep an instance" in str(error)
    assert error.cause == "deadline"
    assert (len(api.creates), len(api.cancels)) == (1, 1)
    assert len(api.polls) > 2


@pytest.mark.parametrize("poll", [(401, b""), (404, {"detail": "gone"}), (200, b"<html>")])
def test_a_poll_that_fails_for_good_cancels_too(poll: Reply) -> None:
    with fake_replicate([STARTING], [poll]) as api:
        refusal()
    assert (len(api.polls), len(api.cancels)) == (1, 1)


def test_polls_that_fail_until_the_deadline_cancel_too() -> None:
    with fake_replicate([STARTING], [BROKEN]) as api:
        assert refusal(deadline=0.5, patience=0).cause == "unreachable"
    assert len(api.polls) > 2
    assert len(api.cancels) == 1


# Its health


def health(address: str = MODEL) -> str:
    with closing(Remote(address, deadline=5)) as service:
        return service.run(service.dialect.health())


def test_it_is_ready_where_the_account_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_replicate() as api:
        assert health() == "READY"
        api.environment.setenv("REPLICATE_API_TOKEN", "another")
        assert health() == ""
        assert [each.path for each in api.asked] == ["/v1/account"] * 2
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", api.url)
    assert health() == ""


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(replicate, raise_on_error=True)
    assert result.attempted >= 2
