"""Cog's HTTP, which the gateway speaks too: the inputs of one request -> its vectors, or the error.

What fails only for the moment is sent again until a deadline. That is safe: embedding leaves
nothing behind, and the same inputs give the same vectors however often they are computed.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping

from e5.client.prediction import (
    RemoteAnswer,
    first_line,
    parse_object,
    read_error,
    read_output,
    read_schema_refusal,
    short_line,
)
from e5.client.transport import Backoff, ClientLimits, NoAnswerError, Transport, check_url
from e5.errors import Cause, QueueFullError, ServiceError, quoted

HEALTH_SECONDS = 5.0  # Cog gives its own health check as long
UNHEALTHY_REMEDY = "its worker is dead or its engine broke: restart it"
REMEDIES_BY_HEALTH = {
    "BUSY": "send less at a time, or add a server",
    "READY": "try again",
    "SETUP_FAILED": "its log and its /health-check say why",
    "STARTING": "wait until it is READY, or give Client a longer deadline",
    "UNHEALTHY": UNHEALTHY_REMEDY,
}


class _NotNowError(Exception):
    """A try that failed only for the moment; its text says what happened, for a sentence."""

    def __init__(self, failure: str, cause: Cause, retry_after: float = 0.0) -> None:
        """`retry_after`: seconds that the service asked to wait."""
        super().__init__(failure)
        self.cause = cause
        self.retry_after = retry_after


class CogProtocol:
    """How to talk to a Cog server that runs this service, or to a gateway.

    Attributes:
        name: of the service in errors: its URL.
        reports_health: true, because `/health-check` tells more than whether there is an answer.
    """

    reports_health = True

    def __init__(
        self,
        url: str,
        *,
        deadline: float,
        retry_seconds: float | None,
        api_key: str | None,
        limits: ClientLimits,
    ) -> None:
        """See `RemoteService`."""
        remedy = "use the URL of a Cog server, as in http://127.0.0.1:5000, or replicate:owner/name"
        self.name = str(check_url(url, "url", remedy)).rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._transport = Transport(self.name, self.name, headers, answer_bytes=limits.answer_bytes)
        self._deadline = deadline
        self._retry_seconds = retry_seconds

    async def embed(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """See `RemoteService.embed`. Cancelling closes the connection, upon which Cog stops."""
        content = json.dumps({"input": inputs}, ensure_ascii=False).encode()
        end = time.monotonic() + self._deadline
        retry_seconds = self._deadline if self._retry_seconds is None else self._retry_seconds
        backoff = Backoff(min(self._deadline, retry_seconds))
        while True:
            try:
                return await self._try(content, end)
            except (_NotNowError, QueueFullError) as error:
                failure = error
            at_least = failure.retry_after if isinstance(failure, _NotNowError) else 0.0
            pause = backoff.next_pause(f"{self.name}: {failure}.", at_least)
            if pause is None:
                break
            await asyncio.sleep(pause)
        if isinstance(failure, QueueFullError):
            raise failure
        raise await self._given_up(failure) from failure

    async def health(self) -> str:
        """The status that `/health-check` reports; "" where it reports none."""
        end = time.monotonic() + HEALTH_SECONDS
        try:
            response = await self._transport.request("GET", "/health-check", end=end)
        except NoAnswerError:
            return ""
        status = parse_object(response.body).get("status")
        is_word = isinstance(status, str) and re.fullmatch("[A-Z_]{1,30}", status)
        return str(status) if is_word else ""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _try(self, content: bytes, end: float) -> RemoteAnswer:
        try:
            response = await self._transport.request(
                "POST", "/predictions", end=end, content=content
            )
        except NoAnswerError as error:
            raise self._unanswered(error) from error
        status = response.status
        if status == 409:
            raise _NotNowError("no free slot (HTTP 409)", "busy")
        prediction = parse_object(response.body)
        has_failed = prediction.get("status") == "failed"
        if status == 503 or (status == 502 and not has_failed):
            # It still starts, or a proxy waits for it.
            if await self.health() == "SETUP_FAILED":
                remedy = REMEDIES_BY_HEALTH["SETUP_FAILED"]
                raise self._failure("its setup failed", remedy, "unreachable")
            raise _NotNowError(f"not ready (HTTP {status})", "unreachable")
        if status == 401:
            raise self._failure(
                "the key is missing or wrong (HTTP 401)", "give Client the right api_key"
            )
        error = read_error(prediction) if has_failed else None
        if status == 429 and not isinstance(error, QueueFullError):
            seconds = response.headers.get("retry-after", "")
            retry_after = float(seconds) if re.fullmatch(r"\d{1,4}", seconds) else 0.0
            raise _NotNowError("too much at a time (HTTP 429)", "busy", retry_after)
        if error is not None:
            raise error
        if status == 422 and (refusal := read_schema_refusal(prediction)):
            raise refusal
        if status != 200 or "status" not in prediction:
            raise self._failure(
                f"POST /predictions answered HTTP {status} with {first_line(response.body)}",
                "check the URL, and what stands between here and the Cog server",
            )
        if prediction["status"] != "succeeded":
            raise self._failure(
                f"a prediction ended as {quoted(prediction['status'])}", "try again"
            )
        try:
            return read_output(prediction.get("output"))
        except ValueError as error:
            raise self._failure(
                f"its output is not that of this service ({short_line(error)})",
                "check that the URL is that of an E5 service",
            ) from error

    def _unanswered(self, error: NoAnswerError) -> _NotNowError | ServiceError:
        if error.kind in ("refused", "lost"):
            return _NotNowError(f"no connection ({error})", "unreachable")
        if error.kind == "late":
            return self._failure(
                f"no answer within the deadline of {self._deadline:g} s",
                "give Client a longer one, or send shorter texts",
                "deadline",
            )
        return self._failure(str(error), "check the URL and the proxy", "unreachable")

    async def _given_up(self, failure: _NotNowError) -> ServiceError:
        health = await self.health()
        has_waited = self._retry_seconds is None
        until = f" until the deadline of {self._deadline:g} s" if has_waited else ""
        seen = f", while /health-check says {health}" if health else ""
        # A dead worker never frees its slots.
        is_ill = health in ("SETUP_FAILED", "UNHEALTHY")
        return self._failure(
            f"{failure}{until}{seen}",
            REMEDIES_BY_HEALTH.get(health, "start the service, or check the URL"),
            "unreachable" if is_ill else failure.cause,
        )

    def _failure(self, failure: str, remedy: str, cause: Cause = "other") -> ServiceError:
        return ServiceError(f"{self.name}: {failure}; {remedy}.", cause=cause)
