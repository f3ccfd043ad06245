"""Cog's HTTP, which the gateway speaks too: the inputs of one request -> its vectors, or the error.

What fails only for the moment is sent again until a deadline. That is safe: embedding leaves
nothing behind, and the same inputs give the same vectors however often they are computed.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from functools import partial

from e5.client.prediction import (
    RemoteAnswer,
    first_line,
    parse_object,
    read_error,
    read_prediction,
    read_schema_refusal,
    service_error,
)
from e5.client.transport import Backoff, ClientLimits, NoAnswerError, Transport, check_url
from e5.errors import Cause, E5Error, QueueFullError, ServiceError

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
    """How to talk to a Cog server that runs this service, or to a gateway. See `RemoteService`."""

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
        """Check the URL."""
        remedy = "use the URL of a Cog server, as in http://127.0.0.1:5000, or replicate:owner/name"
        self.name = str(check_url(url, "url", remedy)).rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._transport = Transport(self.name, self.name, headers, answer_bytes=limits.answer_bytes)
        self._failure = partial(service_error, self.name)
        self._deadline = deadline
        self._retry_seconds = retry_seconds
        self.aclose = self._transport.aclose

    async def embed(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """The answer to one request. Cancelling closes the connection, upon which Cog stops."""
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
                raise await self._given_up(failure)
            await asyncio.sleep(pause)

    async def health(self) -> str:
        """The status that `/health-check` reports; "" where it reports none."""
        end = time.monotonic() + HEALTH_SECONDS
        try:
            response = await self._transport.request("GET", "/health-check", end=end)
        except NoAnswerError:
            return ""
        status = str(parse_object(response.body).get("status"))
        return status if re.fullmatch("[A-Z_]{1,30}", status) else ""

    async def _try(self, content: bytes, end: float) -> RemoteAnswer:
        request = self._transport.request("POST", "/predictions", end=end, content=content)
        try:
            response = await request
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
            remedy = "give Client the right api_key"
            raise self._failure("the key is missing or wrong (HTTP 401)", remedy)
        if status == 429 and not isinstance(read_error(prediction), QueueFullError):
            seconds = response.headers.get("retry-after", "")
            retry_after = float(seconds) if re.fullmatch(r"\d{1,4}", seconds) else 0.0
            raise _NotNowError("too much at a time (HTTP 429)", "busy", retry_after)
        if status == 422 and (refusal := read_schema_refusal(prediction)):
            raise refusal
        if has_failed or (status == 200 and "status" in prediction):
            return read_prediction(prediction, self.name)
        raise self._failure(
            f"POST /predictions answered HTTP {status} with {first_line(response.body)}",
            "check the URL, and what stands between here and the Cog server",
        )

    def _unanswered(self, error: NoAnswerError) -> _NotNowError | ServiceError:
        if error.kind in ("refused", "lost"):
            return _NotNowError(f"no connection ({error})", "unreachable")
        if error.kind == "late":
            failure = f"no answer within the deadline of {self._deadline:g} s"
            remedy = "give Client a longer one, or send shorter texts"
            return self._failure(failure, remedy, "deadline")
        return self._failure(str(error), "check the URL and the proxy", "unreachable")

    async def _given_up(self, failure: _NotNowError | QueueFullError) -> E5Error:
        """The error for the caller, after the last try."""
        if isinstance(failure, QueueFullError):
            return failure
        health = await self.health()
        has_waited = self._retry_seconds is None
        until = f" until the deadline of {self._deadline:g} s" if has_waited else ""
        seen = f", while /health-check says {health}" if health else ""
        # A dead worker never frees its slots.
        is_ill = health in ("SETUP_FAILED", "UNHEALTHY")
        remedy = REMEDIES_BY_HEALTH.get(health, "start the service, or check the URL")
        cause = "unreachable" if is_ill else failure.cause
        return self._failure(f"{failure}{until}{seen}", remedy, cause)
