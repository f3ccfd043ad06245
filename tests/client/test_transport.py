"""Each failure of a request is understood; answers, pauses, limits and addresses hold."""

import asyncio
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fake_http import HALF, Asked, Reply, serve_http
from hypothesis import example, given
from hypothesis import strategies as st

from e5.client import transport
from e5.client.prediction import RequestFailedError
from e5.client.transport import ClientLimits, HttpResponse, Transport, check_url, retry
from e5.errors import InputError, QueueFullError


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def caused(error: Exception, *causes: BaseException) -> Exception:
    """An error as the HTTP library raises it, with what led to it."""
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


class Server(Transport):
    """A server without a protocol."""

    late_remedy = "wait longer"
    address_remedy = "check the address"


def server(url: str, answer_bytes: int = 2**20) -> Server:
    limits = ClientLimits(answer_bytes=answer_bytes)
    return Server("x", url, {"X-Key": "2"}, deadline=60, retry_seconds=60, limits=limits)


def failed(error: Exception, *, silence: float = 9, is_billed: bool = False) -> RequestFailedError:
    """What a request ends in where the HTTP library raises this error."""

    def raising(*_: object, **__: object) -> Any:
        raise error

    async def connected() -> None:
        transport = server("http://127.0.0.1")
        transport._http.stream = raising  # type: ignore[method-assign]
        try:
            await transport.request("POST", "/", end=soon(), silence=silence, is_billed=is_billed)
        finally:
            await transport.aclose()

    with pytest.raises(RequestFailedError) as caught:
        asyncio.run(connected())
    return caught.value


def kind_of(error: Exception) -> str:
    """Whether a request may be sent again after this error: always, if it costs nothing, or not."""
    if failed(error, is_billed=True).may_retry:
        return "refused"
    return "lost" if failed(error).may_retry else "broken"


# Why there is no answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (httpx2.ConnectTimeout("timed out"), "refused", "no connection in time"),
        (
            caused(
                httpx2.ConnectError("All connection attempts failed"),
                OSError("All connection attempts failed"),
                ConnectionRefusedError(111, "Connection refused"),
            ),
            "refused",
            "[Errno 111] Connection refused",
        ),
        (
            caused(httpx2.ConnectError("x"), socket.gaierror(socket.EAI_AGAIN, "for now")),
            "refused",
            f"[Errno {socket.EAI_AGAIN}] for now",
        ),
        (
            caused(httpx2.ConnectError("x"), socket.gaierror(socket.EAI_NONAME, "unknown")),
            "broken",
            f"[Errno {socket.EAI_NONAME}] unknown",
        ),
        (
            caused(httpx2.ConnectError("bad"), ssl.SSLCertVerificationError(1, "self-signed")),
            "broken",
            "self-signed",
        ),
        (httpx2.ReadError(""), "lost", "ReadError"),
        (httpx2.WriteError("reset"), "lost", "reset"),
        (httpx2.RemoteProtocolError("Server disconnected without sending"), "lost", "Server disc"),
        (httpx2.RemoteProtocolError("peer closed connection without"), "lost", "peer closed"),
        (httpx2.RemoteProtocolError("illegal status line"), "broken", "illegal status line"),
        (httpx2.ProxyError("407 Proxy Authentication"), "broken", "407 Proxy"),
        (httpx2.InvalidURL("no"), "broken", "no"),
        (UnicodeError("no such host"), "broken", "no such host"),
        (OSError(24, "Too many open files"), "broken", "Too many open files"),
    ],
)
def test_each_failure_is_refused_lost_or_broken(error: Exception, kind: str, reason: str) -> None:
    found = failed(error)
    assert kind_of(error) == kind
    assert found.cause == "unreachable"
    assert reason in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.PoolTimeout])
def test_silence_is_a_lost_connection_before_the_end_and_late_at_it(timeout: Any) -> None:
    assert kind_of(timeout("timed out")) == "lost"
    assert "(silent for 7 s)" in str(failed(timeout("timed out"), silence=7))
    late = failed(TimeoutError())
    assert (str(late), late.cause) == ("no answer within the deadline of 60 s", "deadline")
    assert kind_of(TimeoutError()) == "broken"  # it is not sent again


@given(st.text())
@example("\x1b[31m\x07\n\u202e")
def test_a_reason_is_one_printable_line(text: str) -> None:
    reason = transport._reason(httpx2.ReadError(text))
    assert reason
    assert reason.isprintable()


# Requests over real sockets


def request(url: str, *args: Any, answer_bytes: int = 2**20, **options: Any) -> HttpResponse:
    """The response to one request."""

    async def connected() -> HttpResponse:
        transport = server(url, answer_bytes)
        try:
            return await transport.request("GET", *args, **{"end": soon(), **options})
        finally:
            await transport.aclose()

    return asyncio.run(connected())


def test_an_answer_comes_back_whole() -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return 418, b"hello", {"X-Word": "hi"}

    with serve_http(answer) as url:
        response = request(f"{url}/e5", "/path", headers={"X-Mine": "1"})
    assert (response.status, response.headers["x-word"]) == (418, "hi")
    assert response.body == b"hello"
    assert [(each.method, each.path, each.content) for each in asked] == [("GET", "/e5/path", b"")]
    sent = {name: asked[0].headers[name] for name in ("X-Mine", "X-Key", "Accept-Encoding")}
    assert sent == {"X-Mine": "1", "X-Key": "2", "Accept-Encoding": "identity"}


@pytest.mark.slow
def test_each_failure_is_distinguished() -> None:
    ended = threading.Event()

    def silent() -> Iterator[bytes]:
        ended.wait(60)
        yield b""

    def dripping() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while not ended.wait(0.02):
            yield b" "

    replies: dict[str, Callable[[], Reply]] = {
        "/drips": dripping,
        "/silent": silent,
        "/much": lambda: (200, b" " * 1001),
        "/enough": lambda: (200, b" " * 1000),
        "/half": lambda: HALF,
        "/ssh": lambda: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    }

    def failure(url: str, path: str, **options: Any) -> tuple[str, bool]:
        with pytest.raises(RequestFailedError) as caught:
            request(url, path, answer_bytes=1000, **options)
        return caught.value.cause, caught.value.may_retry

    late, lost, broken = ("deadline", False), ("unreachable", True), ("unreachable", False)
    with serve_http(lambda asked: replies[asked.path]()) as url:
        assert failure(url, "/drips", end=soon(1)) == late
        assert failure(url, "/silent", end=soon(1)) == late
        assert failure(url, "/silent", silence=1.0) == lost
        assert failure(url, "/silent", silence=1.0, is_billed=True) == broken
        assert failure(url, "/much") == broken
        assert failure(url, "/half") == lost
        assert failure(url, "/half", is_billed=True) == broken
        assert failure(url, "/ssh") == broken
        assert len(request(url, "/enough", answer_bytes=1000).body) == 1000
        ended.set()
    assert failure(url, "/") == lost
    assert failure(url, "/", is_billed=True) == lost  # nothing was sent
    assert failure("http://no-such-host.invalid", "/") == broken


def test_a_connection_that_broke_is_made_again() -> None:
    async def three(url: str) -> list[str]:
        transport, results = server(url), []
        for path in ("/half", "/", "/half"):
            try:
                results.append((await transport.request("GET", path, end=soon())).body.decode())
            except RequestFailedError as error:
                results.append("lost" if error.may_retry else "broken")
        await transport.aclose()
        return results

    with serve_http(lambda asked: HALF if asked.path == "/half" else (200, b"hello")) as url:
        assert asyncio.run(three(url)) == ["lost", "hello", "lost"]


# Pauses


def pauses(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    *,
    failures: int = 14,
    retry_after: float | None = None,
    at_least: float = 0.0,
) -> list[float]:
    """The pauses between the tries of something that fails so often; no time passes."""
    found: list[float] = []

    async def sleep(pause: float) -> None:
        found.append(pause)

    async def attempt() -> None:
        if len(found) < failures:
            raise RequestFailedError("no connection", retry_after=retry_after, may_retry=True)

    patched = SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
    monkeypatch.setattr(transport, "asyncio", patched)
    with suppress(RequestFailedError):
        asyncio.run(retry(attempt, "http://host", seconds, at_least=at_least))
    return found


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pauses(monkeypatch, 3600)
    longest = [min(0.02 * 2**i, 5) for i in range(14)]
    assert all(0.5 * most <= pause <= most for pause, most in zip(found, longest, strict=True))
    assert len({pause / most for pause, most in zip(found, longest, strict=True)}) == 14


@pytest.mark.parametrize("wanted", [{"retry_after": 30}, {"at_least": 30}])
def test_a_pause_is_as_long_as_asked_for(
    wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pauses(monkeypatch, 60, failures=50, **wanted)
    assert len(found) == 50
    assert all(30 <= pause <= 37.5 for pause in found)


@pytest.mark.parametrize(
    ("seconds", "named", "goes_on"),
    [(0, 0, False), (0.5, 0, True), (10, 8.5, True), (10, 9.5, False), (10, 30, False)],
)
def test_no_pause_is_made_after_which_no_answer_could_come(
    seconds: float, named: float, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, _most: least)
    assert bool(pauses(monkeypatch, seconds, failures=1, retry_after=named)) == goes_on


def test_one_warning_comes_after_some_two_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    with caplog.at_level(logging.WARNING):
        assert 1 < sum(pauses(monkeypatch, 3600, failures=6)) < 4
        assert caplog.messages == []
        for failures in (8, 14):
            pauses(monkeypatch, 3600, failures=failures)
        pauses(monkeypatch, 60, failures=5, retry_after=10)
    assert caplog.messages == [
        "http://host: no connection. Trying for 3600 s more.",
        "http://host: no connection. Trying for 3600 s more.",
        "http://host: no connection. Trying for 60 s more.",
    ]


def test_only_what_may_pass_is_tried_again() -> None:
    def tries(error: Exception) -> int:
        count = 0

        async def attempt() -> None:
            nonlocal count
            count += 1
            raise error

        with pytest.raises(type(error)):
            asyncio.run(retry(attempt, "x", 0.1))
        return count

    assert tries(RequestFailedError("x")) == 1
    assert tries(InputError("x", "y", "z")) == 1
    assert tries(RequestFailedError("x", may_retry=True)) > 1
    assert tries(QueueFullError(9, 5, 10)) > 1


# Addresses


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("127.0.0.1:5000", '"127.0.0.1:5000"; use a URL'),
        ("localhost:5000", '"localhost:5000"'),
        ("ftp://host", '"ftp://host"'),
        ("http://", '"http://"'),
        ("http:///predictions", '"http:///predictions"'),
        ("http://host:x", '"http://host:x"'),
        ("http://host:99999", '"http://host:99999"'),
        ("http://host\n/", '"http://host\\n/"'),
        ("http://\ud800/", '"http://\\ud800/"'),
        ("", '""'),
        (None, "null"),
        (b"http://host", "b'http://host'"),
        ("http://me:secret@host", "a URL with a user name; leave it out"),
        ("ftp://me:secret@host", "a URL with a user name; leave it out"),
        ("http://host?key=secret", "a URL with a query or a fragment; leave it out"),
        ("http://host/#secret", "a URL with a query or a fragment; leave it out"),
    ],
)
def test_what_is_no_server_s_address_is_refused(url: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        check_url(url, "url", "use a URL")
    assert caught.value.field == "url"
    assert part in str(caught.value)
    assert "secret" not in str(caught.value)
