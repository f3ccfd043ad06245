"""What the HTTP library says is understood; limits, pauses and addresses hold. No IO."""

import doctest
import logging
import random
import socket
import ssl
import time
from typing import Any

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5.client import wire
from e5.client.wire import Body, NoAnswerError, Pace, Request, check_url
from e5.errors import InputError


def soon(seconds: float = 60, **options: Any) -> Request:
    return Request("GET", "/", time.monotonic() + seconds, **options)


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
    found = NoAnswerError.of(error, soon())
    assert found.kind == kind
    assert reason in str(found)


@pytest.mark.parametrize("timeout", [httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.PoolTimeout])
def test_silence_is_late_at_the_end_and_a_lost_connection_before(timeout: Any) -> None:
    silent = NoAnswerError.of(timeout("timed out"), soon(silence=7))
    assert (silent.kind, str(silent)) == ("lost", "silent for 7 s")
    assert NoAnswerError.of(timeout("timed out"), soon(0)).kind == "late"
    assert NoAnswerError.of(timeout("timed out"), soon(0.005)).kind == "late"


@given(st.text())
@example("\x1b[31m\x07\n\u202e")
def test_a_reason_is_one_printable_line(words: str) -> None:
    reason = str(NoAnswerError.of(httpx2.ReadError(words), soon()))
    assert reason
    assert reason.isprintable()


# Limits


def test_a_timeout_is_what_is_left_or_the_silence_allowed() -> None:
    assert soon(60, silence=5).timeout() == httpx2.Timeout(5)
    left = soon(60).timeout()
    assert left.read is not None
    assert 59 < left.read <= 60
    assert left.connect == wire.CONNECT_SECONDS
    assert soon(-5).timeout() == httpx2.Timeout(0.001)


def test_a_body_is_held_to_its_bytes_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_ANSWER_BYTES", 10)
    body = Body(soon())
    body.add(b"12345")
    body.add(b"67890")
    assert body.content == b"1234567890"
    with pytest.raises(NoAnswerError, match="/ answered more than 10 bytes") as caught:
        body.add(b"1")
    assert caught.value.kind == "broken"
    with pytest.raises(NoAnswerError) as caught:
        Body(soon(-1)).add(b"1")
    assert caught.value.kind == "late"


# Pauses


def test_pauses_grow_and_differ() -> None:
    pace = Pace(3600)
    pauses = [pace.next("busy") or 0.0 for _ in range(14)]
    longest = [min(0.02 * 2**i, 5) for i in range(14)]
    assert all(0.5 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len({pause / most for pause, most in zip(pauses, longest, strict=True)}) == 14


def test_a_pause_is_as_long_as_asked_for() -> None:
    assert all(30 <= (Pace(60).next("busy", 30) or 0.0) <= 37.5 for _ in range(50))


@pytest.mark.parametrize(
    ("seconds", "named", "goes_on"),
    [(0, 0, False), (0.5, 0, True), (10, 8.5, True), (10, 9.5, False), (10, 30, False)],
)
def test_a_pause_after_which_no_answer_could_come_is_none(
    seconds: float, named: float, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, _most: least)
    assert (Pace(seconds).next("busy", named) is not None) == goes_on


def test_one_warning_comes_after_some_two_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    pace, waited = Pace(3600), 0.0
    with caplog.at_level(logging.WARNING):
        while not caplog.records:
            waited += pace.next("http://host: no connection.") or 0.0
        for _ in range(5):
            pace.next("more")
        Pace(60).next("long", 10)
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
    result = doctest.testmod(wire, raise_on_error=True)
    assert result.attempted >= 5
