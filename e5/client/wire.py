"""HTTP without IO: what is sent, what came back, why nothing did, and when to try again.

How a service is asked is written once, as a generator that yields a `Request` and is sent its
`Answer`, or thrown a `NoAnswerError`. `service` runs it, in threads or in an event loop. Knows
nothing of Cog, Replicate or vectors.
"""

import logging
import math
import random
import socket
import ssl
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

import httpx2

from e5.client.prediction import plain
from e5.errors import InputError, quoted

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 2**26  # ten times the vectors of 256 texts at 4096 dimensions
CONNECT_SECONDS = 10.0
# Cog frees a slot only after the answer is sent, so most 409s are over in milliseconds; a model
# that is still being loaded takes minutes.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 5.0
ENOUGH_SECONDS = 1.0  # for an answer, before the time is up

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One HTTP request. A path and no URL, so that it goes to the service and nowhere else.

    Attributes:
        method: GET or POST.
        path: under the service's URL.
        end: when the whole answer must be there, by `time.monotonic`.
        content: the body, JSON.
        headers: beside those that all requests of the service carry.
        after: seconds to wait before it is sent.
        silence: seconds without a byte after which it is given up, before `end`.
    """

    method: Literal["GET", "POST"]
    path: str
    end: float
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0
    silence: float = math.inf

    def timeout(self) -> httpx2.Timeout:
        """For each step of it, counted from now."""
        seconds = max(min(self.end - time.monotonic(), self.silence), 0.001)
        return httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Steps: TypeAlias = Generator[Request, Answer, T]


class NoAnswerError(Exception):
    """No whole answer came; its text is the reason, for a sentence.

    Attributes:
        kind: "refused": there was no connection, so nothing was sent. "lost": it broke or fell
            silent, and the service may have read the request. "late": `end` passed. "broken": no
            waiting cures it.
    """

    def __init__(self, kind: Literal["refused", "lost", "late", "broken"], reason: str) -> None:
        """`reason` is what was met."""
        super().__init__(reason)
        self.kind = kind

    @classmethod
    def of(cls, error: Exception, request: Request) -> "NoAnswerError":
        """What an exception of the HTTP library means.

        Example:
            >>> soon = Request("GET", "/", end=time.monotonic() + 60)
            >>> NoAnswerError.of(httpx2.ReadError("reset"), soon).kind
            'lost'
        """
        # Timers of operating systems may go off a little early.
        is_late = time.monotonic() >= request.end - 0.01
        if isinstance(error, httpx2.ConnectTimeout):
            return cls("refused", "no connection in time")
        if isinstance(error, httpx2.TimeoutException):
            return cls("late" if is_late else "lost", f"silent for {request.silence:g} s")
        reason = _reason(error)
        if not _is_lost_connection(error):
            return cls("broken", reason)
        return cls("refused" if isinstance(error, httpx2.ConnectError) else "lost", reason)


class Body:
    """The body of an answer while it comes in, held to its limits."""

    def __init__(self, request: Request) -> None:
        """Of the answer to this request."""
        self.content = bytearray()
        self._request = request

    def add(self, chunk: bytes) -> None:
        """The next piece.

        Raises:
            NoAnswerError: it is too much, or too late.
        """
        self.content += chunk
        if len(self.content) > MAX_ANSWER_BYTES:
            path = self._request.path
            raise NoAnswerError("broken", f"{path} answered more than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > self._request.end:  # the timeout of a request is that of each chunk
            raise NoAnswerError("late", "the answer goes on and on")


class Pace:
    """The pauses between tries: growing, no two alike, so that callers do not return together.

    Example:
        >>> 0.01 <= Pace(0.1).next("no free slot") <= 0.02
        True
        >>> Pace(0).next("no free slot") is None
        True
    """

    def __init__(self, seconds: float) -> None:
        """Try for some seconds from now on."""
        self._end = time.monotonic() + seconds
        self._longest = FIRST_PAUSE
        self._has_warned = False

    def next(self, met: str, named: float = 0.0) -> float | None:
        """Seconds to wait before the next try; None where too little is left for an answer.

        Args:
            met: what the last try came to, for one warning after some two seconds.
            named: seconds that the service asked to wait.
        """
        pause = max(self._longest * random.uniform(0.5, 1), named * random.uniform(1, 1.25))
        seconds_left = self._end - time.monotonic()
        if pause + min(pause, ENOUGH_SECONDS) >= seconds_left:
            return None
        if not self._has_warned and (self._longest >= 1 or pause >= 2):
            logger.warning("%s Trying for %.0f s more.", met, seconds_left)
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
    if "?" in url or "#" in url:  # nor this: it may hold a key
        raise InputError(field, "a URL with a query or a fragment", f"leave it out, {remedy}")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InputError(field, quoted(url), remedy) from error
    has_port = parsed.port is None or 0 < parsed.port < 2**16
    if parsed.scheme not in ("http", "https") or not parsed.host or not has_port:
        raise InputError(field, quoted(url), remedy)
    return parsed


def _is_lost_connection(error: Exception) -> bool:
    """Whether it was refused or dropped, rather than what no waiting cures."""
    if isinstance(error, httpx2.RemoteProtocolError):  # all others: what answers speaks no HTTP
        return str(error).startswith(("Server disconnected", "peer closed connection"))
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        if isinstance(cause, socket.gaierror):  # there is no such host
            return cause.errno == socket.EAI_AGAIN
    return isinstance(error, httpx2.NetworkError)


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what led to it."""
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _reason(error: Exception) -> str:
    """In the operating system's words where it was asked: the HTTP library has fewer."""
    system = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno]
    told = system[-1] if system else error
    return plain(str(told) or type(told).__name__)
