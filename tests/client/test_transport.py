"""Each failure of a request is understood; answers, pauses, limits and addresses hold."""

import asyncio
import doctest
import logging
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from fake_http import HALF, Asked, Reply, serve_http
from hypothesis import example, given
from hypothesis import strategies as st

from e5.client import transport
from e5.client.transport import (
    Backoff,
    HttpResponse,
    NoAnswerError,
    Transport,
    _timeout,
    check_url,
)
from e5.errors import InputError


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def caused(error: Exception, *causes: BaseException) -> Exception:
    """An error as the HTTP library raises it, with what led to it."""
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


# Why there is no answer


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
    found = NoAnswerError.of(error, end=soon())
    assert found.kind == kind
    assert reason in str(found)


@pytest.mark.parametrize("timeout", [httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.PoolTimeout])
def test_silence_is_late_at_the_end_and_a_lost_connection_before(timeout: Any) -> None:
    silent = NoAnswerError.of(timeout("timed out"), end=soon(), silence=7)
    assert (silent.kind, str(silent)) == ("lost", "silent for 7 s")
    assert NoAnswerError.of(timeout("timed out"), end=soon(0)).kind == "late"
    assert NoAnswerError.of(timeout("timed out"), end=soon(0.005)).kind == "late"


@given(st.text())
@example("\x1b[31m\x07\n\u202e")
def test_a_reason_is_one_printable_line(words: str) -> None:
    reason = str(NoAnswerError.of(httpx2.ReadError(words), end=soon()))
    assert reason
    assert reason.isprintable()


# Requests over real sockets


def request(url: str, *args: Any, answer_bytes: int = 2**20, **options: Any) -> HttpResponse:
    """The response to one request."""

    async def connected() -> HttpResponse:
        transport = Transport("the server", url, {"X-Key": "2"}, answer_bytes=answer_bytes)
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

    def kind(url: str, path: str, **options: Any) -> str:
        with pytest.raises(NoAnswerError) as caught:
            request(url, path, answer_bytes=1000, **options)
        return caught.value.kind

    with serve_http(lambda asked: replies[asked.path]()) as url:
        assert kind(url, "/drips", end=soon(0.2)) == "late"
        assert kind(url, "/silent", end=soon(0.2)) == "late"
        assert kind(url, "/silent", silence=0.2) == "lost"
        assert kind(url, "/much") == "broken"
        assert kind(url, "/half") == "lost"
        assert kind(url, "/ssh") == "broken"
        assert len(request(url, "/enough", answer_bytes=1000).body) == 1000
        ended.set()
    assert kind(url, "/") == "refused"
    assert kind("http://no-such-host.invalid", "/") == "broken"


def test_a_connection_that_broke_is_made_again() -> None:
    async def three(url: str) -> list[str]:
        transport, results = Transport("x", url, {}, answer_bytes=100), []
        for path in ("/half", "/", "/half"):
            try:
                results.append((await transport.request("GET", path, end=soon())).body.decode())
            except NoAnswerError as error:
                results.append(error.kind)
        await transport.aclose()
        return results

    with serve_http(lambda asked: HALF if asked.path == "/half" else (200, b"hello")) as url:
        assert asyncio.run(three(url)) == ["lost", "hello", "lost"]


# Limits


def test_a_timeout_is_the_time_that_is_left_or_the_silence_that_is_allowed() -> None:
    assert _timeout(soon(6000), 5) == httpx2.Timeout(5)
    timeout = _timeout(soon(6000), math.inf)
    assert timeout.read is not None
    assert 5000 < timeout.read <= 6000
    assert timeout.connect == transport.CONNECT_SECONDS
    assert _timeout(soon(-5), math.inf) == httpx2.Timeout(0.001)


# Pauses


def test_pauses_grow_and_differ() -> None:
    backoff = Backoff(3600)
    pauses = [backoff.next_pause("busy") or 0.0 for _ in range(14)]
    longest = [min(0.02 * 2**i, 5) for i in range(14)]
    assert all(0.5 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len({pause / most for pause, most in zip(pauses, longest, strict=True)}) == 14


def test_a_pause_is_as_long_as_asked_for() -> None:
    assert all(30 <= (Backoff(60).next_pause("busy", 30) or 0.0) <= 37.5 for _ in range(50))


@pytest.mark.parametrize(
    ("seconds", "named", "goes_on"),
    [(0, 0, False), (0.5, 0, True), (10, 8.5, True), (10, 9.5, False), (10, 30, False)],
)
def test_a_pause_after_which_no_answer_could_come_is_none(
    seconds: float, named: float, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, _most: least)
    assert (Backoff(seconds).next_pause("busy", named) is not None) == goes_on


def test_one_warning_comes_after_some_two_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    backoff, waited = Backoff(3600), 0.0
    with caplog.at_level(logging.WARNING):
        while not caplog.records:
            waited += backoff.next_pause("http://host: no connection.") or 0.0
        for _ in range(5):
            backoff.next_pause("more")
        Backoff(60).next_pause("long", 10)
    assert 1 < waited < 4
    assert caplog.messages == [
        "http://host: no connection. Trying for 3600 s more.",
        "long Trying for 60 s more.",
    ]


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


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(transport, raise_on_error=True)
    assert result.attempted >= 4
