"""HTTP requests to one server: how long they wait, why no answer came, when to try again."""

import logging
import math
import os
import random
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

import httpx2

from e5.client.prediction import service_error, short_line
from e5.errors import InputError, quoted

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
# Cog frees a slot only after the answer is sent, so most 409s are over in milliseconds; a model
# that is still being loaded takes minutes.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 5.0
ENOUGH_SECONDS = 1.0  # for an answer, before the time is up
LIBRARY_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError)


@dataclass(frozen=True)
class ClientLimits:
    """How large an answer may be; and in seconds, how Replicate is waited for.

    Attributes:
        answer_bytes: the largest body that is read; ten times the vectors of a whole request.
        create_silence: without a byte, after which a new prediction is given up.
        get_silence: the same for any other request.
        first_poll: before the first question whether a prediction has ended.
        longest_poll: the longest time between two such questions.
    """

    answer_bytes: int = 2**26
    create_silence: float = 65.0
    get_silence: float = 10.0
    first_poll: float = 0.25
    longest_poll: float = 2.0


@dataclass(frozen=True)
class HttpResponse:
    """What came back, whatever its status. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswerError(Exception):
    """No whole answer came; its text is the reason, for a sentence.

    Attributes:
        kind: "refused": there was no connection, so nothing was sent. "lost": the connection broke
            or fell silent, and the service may have read the request. "late": the answer was not
            there in time. "broken": sending the request again cannot help.
    """

    def __init__(self, kind: Literal["refused", "lost", "late", "broken"], reason: str) -> None:
        """`reason` is what happened."""
        super().__init__(reason)
        self.kind = kind

    @classmethod
    def of(cls, error: Exception, *, end: float, silence: float = math.inf) -> "NoAnswerError":
        """What an exception of the HTTP library means for a request; see `Transport.request`.

        Example:
            >>> NoAnswerError.of(httpx2.ReadError("reset"), end=time.monotonic() + 60).kind
            'lost'
        """
        if isinstance(error, httpx2.ConnectTimeout):
            return cls("refused", "no connection in time")
        if isinstance(error, httpx2.TimeoutException):
            # Timers of operating systems may go off a little early.
            is_late = time.monotonic() >= end - 0.01
            return cls("late" if is_late else "lost", f"silent for {silence:g} s")
        if not _is_lost_connection(error):
            return cls("broken", _reason(error))
        is_refused = isinstance(error, httpx2.ConnectError)
        return cls("refused" if is_refused else "lost", _reason(error))


class Transport:
    """Sends requests to one server, for one event loop. Any number may be under way at a time."""

    def __init__(
        self, name: str, url: str, headers: Mapping[str, str], *, answer_bytes: int
    ) -> None:
        """Connects when it is first used.

        Args:
            name: of the server, for an error.
            url: without a slash at its end.
            headers: of each request.
            answer_bytes: the largest body that is read.

        Raises:
            ServiceError: for a proxy in the environment that cannot be used.
        """
        self._url = url
        self._answer_bytes = answer_bytes
        headers = {
            **headers,
            "Accept-Encoding": "identity",  # base64 of floats hardly shrinks
            "Content-Type": "application/json",
        }
        limits = httpx2.Limits(max_connections=None)  # as many as there are callers
        # HTTP_PROXY, NO_PROXY and SSL_CERT_FILE count, but no proxy can reach the loopback of this
        # machine.
        trust_env = not _is_loopback(httpx2.URL(url).host)
        try:
            self._http = httpx2.AsyncClient(trust_env=trust_env, limits=limits, headers=headers)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            failure = f"the proxy named in the environment cannot be used ({short_line(error)})"
            remedy = "correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
            raise service_error(name, failure, remedy) from error
        self.aclose = self._http.aclose

    async def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        end: float,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float = math.inf,
    ) -> HttpResponse:
        """Send one request, and read the whole answer. A redirect is an answer like any other.

        Args:
            method: GET or POST.
            path: under the server's URL, so that the request goes nowhere else.
            end: when the whole answer must be there, by `time.monotonic`.
            content: the body, JSON.
            headers: beside those that all requests carry.
            silence: seconds without a byte after which it is given up, before `end`.

        Raises:
            NoAnswerError: no whole answer came.
            RuntimeError: the transport is closed.
        """
        body = bytearray()
        timeout = _timeout(end, silence)
        try:
            async with self._http.stream(
                method, self._url + path, content=content, headers=headers, timeout=timeout
            ) as response:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > self._answer_bytes:
                        reason = f"{path} answered more than {self._answer_bytes} bytes"
                        raise NoAnswerError("broken", reason)
                    if time.monotonic() > end:  # the library's timeout is that of each chunk
                        raise NoAnswerError("late", "the answer does not end")
        except LIBRARY_ERRORS as error:
            raise NoAnswerError.of(error, end=end, silence=silence) from error
        return HttpResponse(response.status_code, response.headers, bytes(body))


class Backoff:
    """The pauses between tries: growing, no two alike, so that callers do not return together.

    Example:
        >>> 0.01 <= Backoff(0.1).next_pause("no free slot") <= 0.02
        True
        >>> Backoff(0).next_pause("no free slot") is None
        True
    """

    def __init__(self, seconds: float) -> None:
        """Try for some seconds from now on."""
        self._end = time.monotonic() + seconds
        self._longest = FIRST_PAUSE
        self._has_warned = False

    def next_pause(self, failure: str, at_least: float = 0.0) -> float | None:
        """Seconds to wait before the next try; None where too little time is left for an answer.

        Args:
            failure: what the last try came to, for one warning after some two seconds.
            at_least: seconds to wait in any case, such as those that the service asks for.
        """
        pause = max(self._longest * random.uniform(0.5, 1), at_least * random.uniform(1, 1.25))
        seconds_left = self._end - time.monotonic()
        if pause + min(pause, ENOUGH_SECONDS) >= seconds_left:
            return None
        if not self._has_warned and (self._longest >= 1 or pause >= 2):
            logger.warning("%s Trying for %.0f s more.", failure, seconds_left)
            self._has_warned = True
        self._longest = min(2 * self._longest, LONGEST_PAUSE)
        return pause


def check_url(url: object, field: str, remedy: str) -> httpx2.URL:
    """The URL, parsed; what is not part of a server's address is refused, not ignored.

    Raises:
        InputError: under the name of `field`.

    Example:
        >>> check_url("http://127.0.0.1:5000/e5", "url", "use a URL").port
        5000
    """
    if not isinstance(url, str):
        raise InputError(field, quoted(url), remedy)
    if "@" in url:  # not repeated: it may hold a password
        raise InputError(field, "a URL with a user name", f"leave it out, {remedy}")
    if "?" in url or "#" in url:  # not repeated either: it may hold a key
        raise InputError(field, "a URL with a query or a fragment", f"leave it out, {remedy}")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InputError(field, quoted(url), remedy) from error
    has_port = parsed.port is None or 0 < parsed.port < 2**16
    if parsed.scheme not in ("http", "https") or not parsed.host or not has_port:
        raise InputError(field, quoted(url), remedy)
    return parsed


def _timeout(end: float, silence: float) -> httpx2.Timeout:
    """For each step of a request, counted from now."""
    seconds = max(min(end - time.monotonic(), silence), 0.001)
    return httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_lost_connection(error: Exception) -> bool:
    """Whether the connection was refused or dropped, so that another try may succeed."""
    if isinstance(error, httpx2.RemoteProtocolError):  # all others: what answers speaks no HTTP
        return str(error).startswith(("Server disconnected", "peer closed connection"))
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        if isinstance(cause, socket.gaierror):  # there is no such host
            return cause.errno == socket.EAI_AGAIN
    return isinstance(error, httpx2.NetworkError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: Exception) -> str:
    """The operating system's description where there is one: the HTTP library says less."""
    deepest: BaseException = error
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno:
            deepest = cause
    if isinstance(deepest, OSError) and not isinstance(deepest, ssl.SSLError | socket.gaierror):
        return (
            f"[Errno {deepest.errno}] {os.strerror(deepest.errno or 0)}"  # asyncio has its own text
        )
    return short_line(str(deepest) or type(deepest).__name__)
