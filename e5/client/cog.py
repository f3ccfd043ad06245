"""Cog's HTTP: the inputs of one request -> its embeddings, or the error that the service meant.

What fails only for the moment is sent again until a deadline. That is safe: embedding leaves
nothing behind, and the same inputs give the same vectors however often they are computed. Knows
nothing of prompts, batches or the caller's lists.
"""

import json
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Mapping
from ipaddress import ip_address

import httpx2

from e5.client.prediction import Embedded, as_error, parse, plain, read_output, schema_refusal
from e5.errors import InputError, QueueFullError, ServiceError, quoted

logger = logging.getLogger(__name__)

MAX_DEADLINE = 86_400.0  # a day
MAX_ANSWER_BYTES = 2**26  # ten times the vectors of 256 texts at 4096 dimensions
CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 5.0  # Cog gives its own health check as long
# Cog frees a slot only after the answer is sent, so most 409s are over in milliseconds; a model
# that is still being loaded takes minutes.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 5.0
REMEDIES = {
    "BUSY": "send less at a time, or add a server",
    "READY": "try again",
    "STARTING": "wait until it is READY, or give Client a longer deadline",
    "UNHEALTHY": "its worker is dead or its engine broke: restart it",
}


class _NotNowError(Exception):
    """A try that failed only for the moment; its text says what was met, for a sentence."""


class Cog:
    """A Cog server that runs this service. Safe to use from several threads.

    Example, with a server of the 7B model on this port:
        >>> cog = Cog("http://127.0.0.1:5000", deadline=60)
        >>> cog.embed({"document": "snow", "encoding_format": "base64"}).vectors.shape
        (1, 4096)
    """

    def __init__(self, url: str, *, deadline: float) -> None:
        """Connects to nothing yet.

        Args:
            url: of the server, with its path where it has one: `https://example.org/e5`.
            deadline: seconds in which a request must be answered, sending it again included.

        Raises:
            InputError: for a URL or a deadline that cannot be used.
            ServiceError: for a proxy in the environment that cannot be used.
        """
        parsed = _check_url(url)
        if not (isinstance(deadline, int | float) and 0 < deadline <= MAX_DEADLINE):
            raise InputError("deadline", quoted(deadline), f"use seconds up to {MAX_DEADLINE:.0f}")
        self._url = str(parsed).rstrip("/")
        self._deadline = deadline
        try:
            self._http = httpx2.Client(
                # HTTP_PROXY, NO_PROXY and SSL_CERT_FILE count, but no proxy can reach the loopback
                # of this machine.
                trust_env=not _is_loopback(parsed.host),
                limits=httpx2.Limits(max_connections=None),  # as many as the callers' threads
                headers={
                    "Accept-Encoding": "identity",  # base64 of floats hardly shrinks
                    "Content-Type": "application/json",
                },
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise self._failure(
                f"the proxy named in the environment cannot be used ({plain(error)})",
                "correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY",
            ) from error

    def embed(self, inputs: Mapping[str, object]) -> Embedded:
        """One prediction. No free slot, a full queue and a lost connection are tried again.

        Args:
            inputs: of the service, with `encoding_format="base64"`.

        Raises:
            E5Error: if the service refused: of its class, with its sentence; EngineError where it
                failed with what is no error of ours.
            ServiceError: it cannot be reached, is not ready in time, or is no such service.
        """
        content = json.dumps({"input": inputs}, ensure_ascii=False).encode()
        end = time.monotonic() + self._deadline
        longest = FIRST_PAUSE
        while True:
            try:
                return self._try(content, end)
            except (_NotNowError, QueueFullError) as error:
                pause = longest * random.uniform(0.5, 1)  # so that callers do not return together
                seconds_left = end - time.monotonic()
                if 2 * pause >= seconds_left:  # what is left after it is too little for an answer
                    if isinstance(error, QueueFullError):
                        raise
                    raise self._too_late(error) from error
                if 1 <= longest < 2:  # once, after some two seconds
                    logger.warning("%s: %s; trying for %.0f s more", self._url, error, seconds_left)
            time.sleep(pause)
            longest = min(2 * longest, LONGEST_PAUSE)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _try(self, content: bytes, end: float) -> Embedded:
        status, body = self._ask("POST", "/predictions", end, content)
        if status == 409:
            raise _NotNowError("no free slot (HTTP 409)")
        if status in (502, 503):  # it still starts, or a proxy waits for it
            if self._health() == "SETUP_FAILED":
                raise self._failure("its setup failed", "its log and its /health-check say why")
            raise _NotNowError(f"not ready (HTTP {status})")
        answer = parse(body)
        if status == 422 and (refusal := schema_refusal(answer)):
            raise refusal
        if status != 200 or "status" not in answer:
            raise self._failure(
                f"POST /predictions answered HTTP {status} with {_first_line(body)}",
                "check the URL, and what stands between here and the Cog server",
            )
        if answer["status"] == "failed":
            raise as_error(answer.get("error"))
        if answer["status"] != "succeeded":
            raise self._failure(f"a prediction ended as {quoted(answer['status'])}", "try again")
        try:
            return read_output(answer.get("output"))
        except ValueError as error:
            raise self._failure(
                f"its output is not that of this service ({plain(error)})",
                "check that the URL is that of an E5 service",
            ) from error

    def _ask(
        self, method: str, path: str, end: float, content: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer that is there before `end`."""
        seconds = max(end - time.monotonic(), 0.001)
        timeout = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        body = bytearray()
        try:
            with self._http.stream(
                method, self._url + path, content=content, timeout=timeout
            ) as response:
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise self._failure(
                            f"{path} answered more than {MAX_ANSWER_BYTES} bytes",
                            "check that the URL is that of an E5 service",
                        )
                    if time.monotonic() > end:  # the timeout above is that of each chunk
                        raise httpx2.ReadTimeout("it goes on and on")
        except httpx2.ConnectTimeout as error:
            raise _NotNowError("no connection") from error
        except httpx2.TimeoutException as error:
            raise self._failure(
                f"no answer within the deadline of {self._deadline:g} s",
                "give Client a longer one, or send shorter texts",
            ) from error
        except httpx2.TransportError as error:
            if _is_lost_connection(error):
                raise _NotNowError(f"no connection ({_reason(error)})") from error
            raise self._failure(_reason(error), "check the URL and the proxy") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise self._failure(_reason(error), "check the URL and the proxy") from error
        return response.status_code, bytes(body)

    def _health(self) -> str:
        """What `/health-check` says in one word; "" where it says nothing."""
        try:
            _, body = self._ask("GET", "/health-check", time.monotonic() + HEALTH_SECONDS)
        except (_NotNowError, ServiceError):
            return ""
        word = parse(body).get("status")
        return word if isinstance(word, str) and re.fullmatch("[A-Z_]{1,30}", word) else ""

    def _too_late(self, error: _NotNowError) -> ServiceError:
        health = self._health()
        seen = f", while /health-check says {health}" if health else ""
        return self._failure(
            f"{error} until the deadline of {self._deadline:g} s{seen}",
            REMEDIES.get(health, "start the service, or check the URL"),
        )

    def _failure(self, what: str, remedy: str) -> ServiceError:
        return ServiceError(f"{self._url}: {what}; {remedy}.")


def _check_url(url: object) -> httpx2.URL:
    """The URL, parsed; what is not part of a server's address is refused, not ignored."""
    remedy = "use the URL of a Cog server, as in http://127.0.0.1:5000"
    if not isinstance(url, str):
        raise InputError("url", quoted(url), remedy)
    if url.startswith("replicate:"):
        raise InputError("url", quoted(url), f"replicate: is not supported yet, {remedy}")
    if "@" in url:  # not repeated: it may hold a password
        raise InputError("url", "a URL with a user name", f"leave it out, {remedy}")
    if "?" in url or "#" in url:  # nor this: it may hold a key
        raise InputError("url", "a URL with a query or a fragment", f"leave it out, {remedy}")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InputError("url", quoted(url), remedy) from error
    has_port = parsed.port is None or 0 < parsed.port < 2**16
    if parsed.scheme not in ("http", "https") or not parsed.host or not has_port:
        raise InputError("url", quoted(url), remedy)
    return parsed


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_lost_connection(error: httpx2.TransportError) -> bool:
    """Whether it was refused or dropped, rather than what no waiting cures."""
    if isinstance(error, httpx2.RemoteProtocolError):  # all others: what answers speaks no HTTP
        return str(error).startswith(("Server disconnected", "peer closed connection"))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        if isinstance(cause, socket.gaierror):  # there is no such host
            return cause.errno == socket.EAI_AGAIN
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, httpx2.NetworkError)


def _reason(error: Exception) -> str:
    return plain(str(error) or type(error).__name__)


def _first_line(body: bytes) -> str:
    """Of a body that was not understood, for an error."""
    lines = body[:1000].decode(errors="replace").strip().splitlines()
    return quoted(plain(lines[0])) if lines else "an empty body"
