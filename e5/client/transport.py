"""HTTP requests to one server: how long they wait, why no answer came, when to try again."""

import asyncio
import logging
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, TypeVar

import httpx2

from e5.client.prediction import RequestFailedError, parse_object, short_line
from e5.errors import InputError, QueueFullError, ServiceError, quoted

logger = logging.getLogger(__name__)

Attempted = TypeVar("Attempted")

CONNECT_SECONDS = 10.0
BRIEF_SECONDS = 5.0  # Cog gives its own health check as long
# Cog frees a slot only after the answer is sent, so most 409s are over in milliseconds; a model
# that is still being loaded takes minutes.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 5.0
ENOUGH_SECONDS = 1.0  # that an attempt needs: with less time left, none is made


@dataclass(frozen=True)
class ClientLimits:
    """How large an answer may be; and, in seconds, how long Replicate is waited for.

    Attributes:
        answer_bytes: the size of the largest body that is read; ten times the vectors of a whole
            request.
        create_silence: the time without a byte after which the request for a new prediction fails.
        first_poll: the pause before Replicate is asked whether a prediction has ended. Each further
            pause is twice as long, up to eight times the first one.
    """

    answer_bytes: int = 2**26
    create_silence: float = 65.0
    first_poll: float = 0.25


@dataclass(frozen=True)
class HttpResponse:
    """What came back, whatever its status. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests to one server, for one event loop. Any number may be under way at a time.

    The base of both protocols; see `RemoteService`.
    """

    late_remedy: str  # if no answer comes within the deadline
    address_remedy: str  # if there is no connection, or what answers does not speak HTTP

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        *,
        deadline: float,
        retry_seconds: float,
        limits: ClientLimits,
    ) -> None:
        """Take the server's URL, without a slash at its end, and the headers of each request.

        The other arguments and the errors are those of `RemoteService`.
        """
        self.name = name
        self._url = url
        self._deadline, self._retry_seconds, self._limits = deadline, retry_seconds, limits
        headers = {
            **headers,
            "Accept-Encoding": "identity",  # base64 of floats hardly shrinks
            "Content-Type": "application/json",
        }
        limitless = httpx2.Limits(max_connections=None)  # as many as there are callers
        # HTTP_PROXY, NO_PROXY and SSL_CERT_FILE count, but no proxy can reach the loopback of this
        # machine.
        trust_env = not _is_loopback(httpx2.URL(url).host)
        try:
            self._http = httpx2.AsyncClient(trust_env=trust_env, limits=limitless, headers=headers)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise ServiceError(
                f"{name}: the proxy named in the environment cannot be used ({short_line(error)}); "
                "correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY."
            ) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        end: float,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
        is_billed: bool = False,
    ) -> HttpResponse:
        """Send one request, and read the whole answer. A redirect is an answer like any other.

        Args:
            method: the method of HTTP.
            path: under the server's URL, so that the request goes nowhere else.
            end: when the whole answer must be there, by `time.monotonic`.
            content: the body, JSON.
            headers: further headers, beside those that all requests carry.
            silence: seconds without a byte after which it fails, before `end`.
            is_billed: whether it must not be sent again once the server may have read it.

        Raises:
            RequestFailedError: no whole answer came.
            RuntimeError: the transport is closed.
        """
        body = bytearray()
        seconds = max(end - time.monotonic(), 0.0)
        # Half of a short time is left to say that there is no connection, instead of no answer.
        timeout = httpx2.Timeout(silence, connect=min(seconds / 2, CONNECT_SECONDS))
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(
                    method, self._url + path, content=content, headers=headers, timeout=timeout
                ) as response,
            ):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > self._limits.answer_bytes:
                        reason = f"{path} answered more than {self._limits.answer_bytes} bytes"
                        raise RequestFailedError(reason, self.address_remedy, "unreachable")
        except TimeoutError as error:
            failure = f"no answer within the deadline of {self._deadline:g} s"
            raise RequestFailedError(failure, self.late_remedy, "deadline") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            failure, remedy = _reason(error, silence), self.address_remedy
            is_refused = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            is_lost = _is_lost_connection(error)
            if is_lost and is_billed and not is_refused:
                failure = f"no answer to a prediction that was sent ({failure})"
                remedy = "try again; it was not sent twice, because it may have begun and is billed"
            elif is_lost:
                failure = f"no connection ({failure})"
            may_retry = is_lost and (is_refused or not is_billed)
            raise RequestFailedError(failure, remedy, "unreachable", may_retry=may_retry) from error
        return HttpResponse(response.status_code, response.headers, bytes(body))

    async def brief_request(self, method: Literal["GET", "POST"], path: str) -> HttpResponse | None:
        """The answer to a request that takes a moment; None where there is none."""
        try:
            return await self.request(method, path, end=time.monotonic() + BRIEF_SECONDS)
        except RequestFailedError:
            return None


async def retry(
    attempt: Callable[[], Awaitable[Attempted]], name: str, seconds: float, *, at_least: float = 0.0
) -> Attempted:
    """The result of the first attempt that succeeds, within some seconds.

    An attempt that raises a QueueFullError, or a RequestFailedError with `may_retry`, is followed
    by another one. The pauses grow, are at least so long, and no two are alike, so that callers do
    not return together. After some two seconds one warning names the service.

    Raises:
        E5Error, RequestFailedError: that of the last attempt.
    """
    end = time.monotonic() + seconds
    longest, has_warned = FIRST_PAUSE, False
    while True:
        try:
            return await attempt()
        except (RequestFailedError, QueueFullError) as error:
            if isinstance(error, RequestFailedError) and not error.may_retry:
                raise
            wanted = max(at_least, getattr(error, "retry_after", None) or 0.0)
            pause = max(longest * random.uniform(0.5, 1), wanted * random.uniform(1, 1.25))
            seconds_left = end - time.monotonic()
            if pause + min(pause, ENOUGH_SECONDS) >= seconds_left:
                raise
            if not has_warned and (longest >= 1 or pause >= 2):
                failure = str(error).rstrip(".")
                logger.warning("%s: %s. Trying for %.0f s more.", name, failure, seconds_left)
                has_warned = True
        await asyncio.sleep(pause)
        longest = min(2 * longest, LONGEST_PAUSE)


def retry_after(response: HttpResponse) -> float | None:
    """The seconds to wait that a header of an HTTP 429 names, or Replicate's sentence."""
    detail = str(parse_object(response.body).get("detail"))
    named = re.findall(r"resets in ~?(\d{1,4})s", detail)
    headers = [response.headers.get(name, "") for name in ("retry-after", "ratelimit-reset")]
    for seconds in named + headers:
        if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", seconds):  # a larger number would be a date
            return float(seconds)
    return None


def check_url(url: object, field: str, remedy: str) -> httpx2.URL:
    """The URL, parsed; InputError for anything that is not part of a server's address."""
    for part, characters in (("a user name", "@"), ("a query or a fragment", "?#")):
        if isinstance(url, str) and set(characters) & set(url):  # not shown: it may hold a secret
            raise InputError(field, f"a URL with {part}", f"leave it out, {remedy}")
    try:
        parsed = httpx2.URL(url)  # type: ignore[arg-type]
    except (TypeError, httpx2.InvalidURL) as error:
        raise InputError(field, quoted(url), remedy) from error
    has_port = parsed.port is None or 0 < parsed.port < 2**16
    if parsed.scheme not in ("http", "https") or not parsed.host or not has_port:
        raise InputError(field, quoted(url), remedy)
    return parsed


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_lost_connection(error: Exception) -> bool:
    """Whether the connection was refused or dropped, so that another try may succeed."""
    if isinstance(error, httpx2.RemoteProtocolError):  # others: it does not speak HTTP
        return str(error).startswith(("Server disconnected", "peer closed connection"))
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        if isinstance(cause, socket.gaierror):  # there is no such host
            return cause.errno == socket.EAI_AGAIN
    return isinstance(error, httpx2.NetworkError | httpx2.TimeoutException)


def _reason(error: Exception, silence: float | None = None) -> str:
    """Why no answer came: what the operating system says, because the HTTP library says less."""
    if isinstance(error, httpx2.TimeoutException):
        is_connecting = isinstance(error, httpx2.ConnectTimeout)
        return "no connection in time" if is_connecting else f"silent for {silence:g} s"
    described = [each for each in _causes(error) if isinstance(each, OSError) and each.errno]
    deepest = described[-1] if described else error
    if described and not isinstance(deepest, ssl.SSLError | socket.gaierror):
        number = described[-1].errno or 0
        return f"[Errno {number}] {os.strerror(number)}"  # asyncio has its own text
    return short_line(str(deepest) or type(deepest).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
