"""Cog's HTTP from the outside: every way an answer can go wrong, over real sockets."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_cog import FakeCog, failed, fake_cog, succeeded
from fake_http import HALF, Reply
from ports import free_port
from processes import children
from remote_calls import INPUTS, embed
from server import serve
from waiting import wait_until

from e5.client import transport
from e5.client.transport import ClientLimits
from e5.errors import (
    E5Error,
    EngineError,
    InputError,
    NonFiniteError,
    QueueFullError,
    ServiceError,
)

WEIGHTS = Path("weights/e5-mini")
BUSY: Reply = (409, {"error": "At capacity - all prediction slots busy", "status": "failed"})
NOT_READY: Reply = (503, {"error": "Setup has not finished yet.", "status": "failed"})
FULL = QueueFullError(9, 5, 10)
# What Cog says of a prediction whose worker was killed, and of those that it then sends to it.
CRASHED: Reply = (
    200, {"status": "failed", "error": "Worker crashed", "metrics": {"predict_time": 0.1}}
)  # fmt: skip
PIPE = "Failed to send request: Failed to send on slot socket: Broken pipe (os error 32)"
NOT_SENT: Reply = (200, {"status": "failed", "error": PIPE, "metrics": {"predict_time": 0.1}})
OPEN_END = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"sta\r\n'


def refusal(cog: FakeCog, **options: Any) -> ServiceError:
    """The `ServiceError` that the request ends in: one safe line with the URL."""
    with pytest.raises(ServiceError) as caught:
        embed(cog.url, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"{cog.url}: ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 700
    return caught.value


def error_of(cog: FakeCog, **options: Any) -> str:
    return str(refusal(cog, **options))


def first(count: int, reply: Reply) -> Any:
    """`reply` to the first `count` predictions, vectors to all others."""
    return lambda number, inputs: reply if number < count else succeeded(inputs)


def always(reply: Reply) -> Any:
    return lambda _number, _inputs: reply


# What goes over the wire


def test_a_prediction_is_the_input_without_id_or_webhook_on_which_cog_would_act() -> None:
    texts = ["\N{GRINNING FACE}\u05e9\u05dc\u05d5\u05dd\x00\u2028", "7"]
    with fake_cog(first(0, b"")) as cog:
        embed(cog.url, {"documents": texts})
    assert cog.bodies == [{"input": {"documents": texts}}]
    assert cog.headers[0]["Content-Type"] == "application/json"
    assert cog.headers[0]["Accept-Encoding"] == "identity"
    assert int(cog.headers[0]["Content-Length"]) < 60  # UTF-8, no escapes where none are needed


@pytest.mark.parametrize("end", ["", "/", "//", "/prefix", "/prefix/"])
def test_a_path_and_slashes_at_the_end_are_fine(end: str) -> None:
    with fake_cog(first(0, b"")) as cog:
        assert embed(cog.url + end).model == "toy@1"


# What is sent again


@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(BUSY, id="no free slot"),
        pytest.param(NOT_READY, id="still starting"),
        pytest.param((502, b"<html>Bad gateway</html>"), id="a proxy that waits for it"),
        pytest.param(failed(FULL), id="the queue is full"),
        pytest.param(b"", id="dropped before the answer"),
        pytest.param(HALF, id="dropped within the answer"),
        pytest.param(OPEN_END, id="dropped between chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="dropped within the headers"),
    ],
)
def test_what_fails_for_the_moment_is_sent_again(reply: Reply) -> None:
    with fake_cog(first(4, reply)) as cog:
        assert embed(cog.url).vectors.tolist() == [[7, 1, 0, 0]]
        assert cog.inputs == [INPUTS] * 5


@pytest.mark.slow
def test_a_server_that_is_not_there_yet_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        asked = pool.submit(embed, f"http://127.0.0.1:{port}", deadline=60)
        while not caplog.records:
            assert not asked.done()
            time.sleep(0.02)
        with socket.create_server(("127.0.0.1", port)) as listening:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                assert isinstance(asked.exception(), ServiceError)  # it was answered
    assert len(caplog.records) == 1
    assert f"127.0.0.1:{port}: no connection ([Errno 111]" in caplog.messages[0]


# What is not


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "part"),
    [
        ((200, b"hello"), 'POST /predictions answered HTTP 200 with "hello"'),
        ((200, b""), "answered HTTP 200 with an empty body"),
        ((200, []), "check the URL, and what stands between"),
        ((200, b"[" * 100_000), "check the URL"),
        ((200, {"id": "x"}), "answered HTTP 200"),
        ((200, {"status": "processing"}), 'the prediction ended as "processing"'),
        ((200, {"status": "canceled"}), 'the prediction ended as "canceled"'),
        ((200, {"status": ["\x1b[31m" * 9]}), "the prediction ended as"),
        ((200, {"status": "succeeded"}), "its output is not that of this service"),
        ((200, {"status": "succeeded", "output": "https://x/out.png"}), "its output is not that"),
        ((200, {"status": "succeeded", "output": {"embeddings": [[1]]}}), "no embeddings_base64"),
        ((301, b""), "answered HTTP 301"),
        ((400, b"Failed to parse the request body as JSON"), '"Failed to parse the request body'),
        ((401, {"error": "who are you"}), "HTTP 401"),
        ((404, b""), "HTTP 404 with an empty body"),
        ((413, b"<html>\r\n<head><title>413 Too Large</title>"), 'HTTP 413 with "<html>"'),
        ((415, b"Expected request with `Content-Type: application/json`"), '"Expected request'),
        ((422, b"no details"), 'HTTP 422 with "no details"'),
        ((422, {"detail": "a string"}), "HTTP 422"),
        ((500, b"boom\nTraceback (most recent call last):\n  File x"), 'HTTP 500 with "boom"'),
        ((500, b"Traceback (most recent call last):\n  File x"), "HTTP 500 with"),
        ((500, b"\x1b[31m\x07\xff red" + b"x" * 5000), "HTTP 500 with"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "check the URL and the proxy"),
    ],
)
def test_an_answer_that_is_not_the_service_s_is_an_error_at_once(reply: Reply, part: str) -> None:
    with fake_cog(always(reply)) as cog:
        sentence = error_of(cog)
        assert part in sentence
        assert "Traceback" not in sentence
        assert len(cog.inputs) == 1


@pytest.mark.parametrize(
    "error",
    [
        InputError("documents[0]", "7", "send a string"),
        NonFiniteError(0, "documents[0]"),
        EngineError("the engine failed."),
    ],
)
def test_a_refusal_is_the_service_s_own_error_and_not_sent_again(error: E5Error) -> None:
    with fake_cog(always(failed(error))) as cog:
        with pytest.raises(type(error)) as caught:
            embed(cog.url)
        assert caught.value.to_dict() == error.to_dict()
        assert len(cog.inputs) == 1


def test_a_failure_without_an_error_of_ours_is_an_engine_error() -> None:
    with fake_cog(always(failed("RuntimeError: its log has the reason."))) as cog:
        with pytest.raises(
            EngineError, match=r"^the service failed: RuntimeError: its log has the reason\.$"
        ):
            embed(cog.url)
        assert len(cog.inputs) == 1


def test_a_failure_of_cog_after_the_service_answered_is_not_a_worker_s_death() -> None:
    """Such as an answer for whose file there is no space."""
    failure = {"status": "failed", "error": "No space.", "metrics": {"tokens": 3}}
    with fake_cog(always((200, failure))) as cog:
        with pytest.raises(EngineError, match=r"^the service failed: No space\.$"):
            embed(cog.url)
        assert len(cog.inputs) == 1


@pytest.mark.parametrize("reply", [CRASHED, NOT_SENT])
def test_a_request_whose_worker_died_is_sent_to_a_live_one(reply: Reply) -> None:
    with fake_cog(first(1, reply)) as cog:
        assert embed(cog.url).vectors.tolist() == [[7, 1, 0, 0]]
        assert cog.inputs == [INPUTS] * 2


def test_it_is_sent_as_soon_as_a_worker_is_alive() -> None:
    with fake_cog(first(1, CRASHED)) as cog, ThreadPoolExecutor(1) as pool:
        cog.health = (200, {"status": "UNHEALTHY"})
        asked = pool.submit(embed, cog.url)
        wait_until(lambda: cog.inputs)
        cog.health = (200, {"status": "READY"})
        assert asked.result().vectors.tolist() == [[7, 1, 0, 0]]
        assert cog.inputs == [INPUTS] * 2


def test_a_request_of_which_two_workers_died_is_sent_to_no_third() -> None:
    with fake_cog(always(CRASHED)) as cog:
        with pytest.raises(EngineError, match=r"^the service's worker died while it had this requ"):
            embed(cog.url)
        assert len(cog.inputs) == 2


@pytest.mark.parametrize("health", ["UNHEALTHY", "STARTING", None])
def test_if_no_worker_is_alive_the_error_says_that_it_died(health: str | None) -> None:
    seen = f"/health-check says {health}" if health else "nothing answers"
    with fake_cog(always(NOT_SENT)) as cog:
        cog.health = (200, {"status": health}) if health else (404, b"")
        error = refusal(cog, retry_seconds=0.3)
        assert f"the worker died while it had the request, and now {seen}; try" in str(error)
        assert error.cause == "died"
        assert len(cog.inputs) == 1


def test_a_worker_that_is_still_dead_is_not_counted_as_two() -> None:
    def reply(number: int, _: object) -> Reply:
        cog.health = (200, {"status": "READY" if number == 0 else "UNHEALTHY"})
        return CRASHED

    with fake_cog(reply) as cog:
        assert refusal(cog, retry_seconds=0.3).cause == "died"
        assert len(cog.inputs) == 2


def test_a_schema_s_refusal_names_the_field() -> None:
    complaint = {"loc": ["body", "input", "documents/0"], "msg": "7 is not of type string"}
    with fake_cog(always((422, {"detail": [complaint]}))) as cog:
        with pytest.raises(InputError, match="7 is not of type string") as caught:
            embed(cog.url)
        assert caught.value.field == "documents[0]"


def test_a_failed_setup_is_an_error_at_once() -> None:
    with fake_cog(always(NOT_READY)) as cog:
        cog.health = (200, {"status": "SETUP_FAILED", "setup": {"logs": "Traceback ..."}})
        sentence = error_of(cog)
        assert sentence == (f"{cog.url}: its setup failed; its log and its /health-check say why.")
        assert len(cog.inputs) == 1


def test_a_host_that_does_not_exist_is_an_error_at_once() -> None:
    error = refusal(FakeCog("http://no-such-host.invalid"), deadline=60)
    assert "check the URL and the proxy" in str(error)
    assert error.cause == "unreachable"


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    written = 0

    def endless() -> Iterator[bytes]:
        nonlocal written
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while written < 2**28:
            yield b"x" * 2**16
            written += 2**16

    with fake_cog(always(endless())) as cog:
        sentence = error_of(cog, limits=ClientLimits(answer_bytes=2**20))
    assert "/predictions answered more than 1048576 bytes" in sentence
    assert written < 2**26


# The deadline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("health", "part"),
    [
        ("UNHEALTHY", "while /health-check says UNHEALTHY; its worker is dead or its engine broke"),
        ("BUSY", "while /health-check says BUSY; send less at a time, or add a server."),
        ("READY", "while /health-check says READY; try again."),
        ("STARTING", "while /health-check says STARTING; wait until it is READY"),
        ("<script>", "until the deadline of 60 s; start the service, or check the URL."),
        (None, "until the deadline of 60 s; start the service, or check the URL."),
    ],
)
def test_without_a_free_slot_the_error_says_what_the_server_s_health_is(
    health: str | None, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE", 1000.0)  # longer than the deadline
    with fake_cog(always(BUSY)) as cog:
        cog.health = (200, {"status": health}) if health else (404, b"")
        error = refusal(cog, deadline=60)
        assert "no free slot (HTTP 409) until the deadline of 60 s" in str(error)
        assert part in str(error)
        assert error.cause == ("unreachable" if health == "UNHEALTHY" else "busy")


def test_a_server_without_a_free_slot_is_given_up_at_the_deadline() -> None:
    with fake_cog(always(BUSY)) as cog:
        assert "the deadline of 0.5 s" in error_of(cog, deadline=0.5)


def test_a_queue_that_stays_full_is_the_service_s_own_error() -> None:
    is_full = pytest.raises(QueueFullError, match=r"^the queue is full \(9 tokens wait")
    with fake_cog(always(failed(FULL))) as cog, is_full:
        embed(cog.url, retry_seconds=0.3)


def test_a_port_where_nobody_listens_is_named_with_the_reason() -> None:
    cog = FakeCog(f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    sentence = error_of(cog, retry_seconds=0.5)
    assert time.monotonic() - started > 0.1
    assert "no connection ([Errno 111] Connection refused); start the service" in sentence


@pytest.mark.slow
def test_an_answer_that_does_not_come_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cog = FakeCog(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "no answer within the deadline of 1 s" in error_of(cog, deadline=1)
        assert time.monotonic() - started > 0.9


@pytest.mark.slow
def test_an_answer_that_drips_ends_at_the_deadline() -> None:
    def dripping() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        for _ in range(2000):
            time.sleep(0.05)
            yield b" "

    with fake_cog(always(dripping())) as cog:
        assert "no answer within the deadline of 1 s" in error_of(cog, deadline=1)


# How long it is sent again


@pytest.mark.parametrize("reply", [BUSY, NOT_READY, failed(FULL), HALF, CRASHED])
def test_with_0_seconds_to_retry_it_is_sent_once(reply: Reply) -> None:
    with fake_cog(first(1, reply)) as cog:
        with pytest.raises(E5Error):
            embed(cog.url, retry_seconds=0)
        assert len(cog.inputs) == 1
        assert embed(cog.url, retry_seconds=0).model == "toy@1"


@pytest.mark.slow
def test_it_is_retried_for_the_seconds_allowed_and_no_longer() -> None:
    with fake_cog(first(3, BUSY)) as cog:
        assert embed(cog.url, deadline=60, retry_seconds=60).model == "toy@1"
    with fake_cog(always(BUSY)) as cog:
        started = time.monotonic()
        error = refusal(cog, deadline=60, retry_seconds=0.5)
        assert time.monotonic() - started < 50
        assert (
            str(error)
            == f"{cog.url}: no free slot (HTTP 409), while /health-check says READY; try again."
        )
        assert (error.cause, error.retry_after) == ("busy", None)


@pytest.mark.slow
def test_the_cause_distinguishes_a_service_that_is_absent_from_one_that_is_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cog = FakeCog(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert refusal(cog, deadline=1).cause == "deadline"
    nobody = FakeCog(f"http://127.0.0.1:{free_port()}")
    assert refusal(nobody, retry_seconds=0).cause == "unreachable"
    with fake_cog(always(NOT_READY)) as cog:
        assert refusal(cog, retry_seconds=0).cause == "unreachable"
    with fake_cog(always((400, b"no"))) as cog:
        assert refusal(cog).cause == "other"


# The real server


@pytest.mark.slow
def test_a_real_server_with_one_slot_serves_many_and_says_when_its_worker_died() -> None:
    environment = {"E5_DEVICE": "cpu", "E5_DTYPE": "float32", "COG_MAX_CONCURRENCY": "1"}
    inputs = {"documents": ["snow"], "encoding_format": "base64"}
    with serve(WEIGHTS, env=environment, with_schema=True) as server:
        url = str(server.client.base_url)
        with ThreadPoolExecutor(8) as pool:  # 409 more often than not
            answers = list(pool.map(lambda _: embed(url, inputs, deadline=60), range(40)))
        assert len({answer.vectors.tobytes() for answer in answers}) == 1
        assert (answers[0].tokens, answers[0].truncated) == ([3], [False])
        with pytest.raises(InputError, match="0 is less than the minimum of 1") as caught:
            embed(url, {**inputs, "dimensions": 0})  # Cog's own schema, HTTP 422
        assert caught.value.field == "dimensions"

        for worker in children(server.process.pid):
            os.kill(worker, signal.SIGKILL)
        server.wait_for("UNHEALTHY")
        # The slot was free until now.
        assert refusal(FakeCog(url), retry_seconds=0.3).cause == "died"
        for seconds in (0.3, 0):
            error = refusal(FakeCog(url), deadline=60, retry_seconds=seconds)
            assert "UNHEALTHY; its worker is dead" in str(error)
            assert error.cause == "unreachable"
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.process.returncode = 0  # how it ends without its worker is not the question


@pytest.mark.slow
def test_a_real_server_without_weights_is_an_error_at_once() -> None:
    with serve(Path("weights/no-such-model"), until="SETUP_FAILED") as server:
        error = refusal(FakeCog(str(server.client.base_url).rstrip("/")), deadline=60)
    assert "its setup failed" in str(error)
    assert error.cause == "unreachable"


# What a gateway adds to Cog's protocol

TOO_MUCH = ServiceError("too much at a time.", cause="busy", retry_after=1)


@pytest.mark.slow
@pytest.mark.parametrize("error", [TOO_MUCH, "ServiceError: too much at a time."])
def test_a_gateway_that_is_busy_is_asked_again(error: E5Error | str) -> None:
    busy = failed(error, status=429)
    with fake_cog(first(2, busy)) as cog:
        assert embed(cog.url).vectors.tolist() == [[7, 1, 0, 0]]
        assert len(cog.bodies) == 3
    with fake_cog(always(busy)) as cog:
        assert refusal(cog, retry_seconds=0.3).cause == "busy"


@pytest.mark.slow
def test_a_gateway_is_asked_again_no_sooner_than_it_says() -> None:
    status, body = failed(TOO_MUCH, status=429)
    with fake_cog(first(1, (status, body, {"Retry-After": "1"}))) as cog:
        started = time.monotonic()
        assert embed(cog.url).model == "toy@1"
        assert time.monotonic() - started >= 1


def test_a_wrong_key_is_an_error_at_once() -> None:
    with fake_cog(always(failed("ServiceError: no key.", status=401))) as cog:
        error = refusal(cog)
        assert "send the right key (api_key of Client)" in str(error)
        assert error.cause == "other"
        assert len(cog.bodies) == 1


def test_an_answer_that_a_gateway_did_not_get_in_time_is_not_asked_for_again() -> None:
    late = ServiceError("no answer within 300 s; send less.", cause="deadline")
    with fake_cog(always(failed(late, status=504))) as cog:
        with pytest.raises(ServiceError, match="no answer within 300 s") as caught:
            embed(cog.url)
        assert len(cog.bodies) == 1
    assert caught.value.cause == "deadline"
