"""Cog's HTTP, which the gateway speaks too: the inputs of one request -> its vectors, or the error.

What fails only for the moment is sent again until a deadline. That is safe: embedding leaves
nothing behind, and the same inputs give the same vectors however often they are computed.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from e5.client.prediction import (
    RemoteAnswer,
    RequestFailedError,
    first_line,
    parse_object,
    read_error,
    read_prediction,
    read_schema_refusal,
)
from e5.client.transport import Transport, check_url, retry, retry_after
from e5.errors import EngineError, QueueFullError

UNHEALTHY_REMEDY = "its worker is dead or its engine broke: restart it"
REMEDIES_BY_HEALTH = {
    "BUSY": "send less at a time, or add a server",
    "READY": "try again",
    "SETUP_FAILED": "its log and its /health-check say why",
    "STARTING": "wait until it is READY, or allow a longer deadline",
    "UNHEALTHY": UNHEALTHY_REMEDY,
}


# How Cog begins the error of a prediction that raised one, unlike that of a worker that died.
RAISED = "Prediction failed: "
DIED_TWICE = (
    "the service's worker died while it had this request, and so did the next one; send fewer or "
    "shorter texts, or give the service more memory."
)


class WorkerDiedError(RequestFailedError):
    """The worker died before it had answered."""


class CogProtocol(Transport):
    """The protocol of a Cog server with this service, and of a gateway. See `RemoteService`."""

    reports_health = True
    late_remedy = "allow a longer deadline, or send shorter texts"
    address_remedy = "check the URL and the proxy"

    def __init__(self, url: str, api_key: str | None, **options: Any) -> None:
        remedy = "use the URL of a Cog server, as in http://127.0.0.1:5000, or replicate:owner/name"
        url = str(check_url(url, "url", remedy)).rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        super().__init__(url, url, headers, **options)

    async def embed(self, inputs: Mapping[str, object], end: float) -> RemoteAnswer:
        """The answer to one request. Cancelling closes the connection, upon which Cog stops."""
        content = json.dumps({"input": inputs}, ensure_ascii=False).encode()
        try:
            return await self._try_until(content, end)
        except WorkerDiedError:
            if not self._retry_seconds:
                raise
            # The request may have killed it, so it is sent only once more, to a live worker.
            await retry(self._find_alive, self.name, self._retry_seconds)
        try:
            return await self._try_until(content, end)
        except WorkerDiedError as error:
            await self._find_alive()  # it was the same worker, if that is still dead
            raise EngineError(DIED_TWICE) from error

    async def _find_alive(self) -> None:
        """Return if a worker is alive, and raise a RequestFailedError if none is."""
        if (health := await self.health()) not in ("BUSY", "READY"):
            seen = f"/health-check says {health}" if health else "nothing answers"
            failure = f"the worker died while it had the request, and now {seen}"
            raise RequestFailedError(failure, "try again", "died", may_retry=True)

    async def _try_until(self, content: bytes, end: float) -> RemoteAnswer:
        """The answer to a request that is sent again after what fails only for the moment."""
        try:
            return await retry(lambda: self._try(content, end), self.name, self._retry_seconds)
        except RequestFailedError as error:
            if not error.may_retry:
                raise
            health = await self.health()
            has_waited = self._retry_seconds == self._deadline
            until = f" until the deadline of {self._deadline:g} s" if has_waited else ""
            seen = f", while /health-check says {health}" if health else ""
            remedy = REMEDIES_BY_HEALTH.get(health, "start the service, or check the URL")
            # A dead worker never frees its slots.
            is_ill = health in ("SETUP_FAILED", "UNHEALTHY")
            cause = "unreachable" if is_ill else error.cause
            raise RequestFailedError(f"{error}{until}{seen}", remedy, cause) from error

    async def health(self) -> str:
        """The status that `/health-check` reports; "" where it reports none."""
        response = await self.brief_request("GET", "/health-check")
        status = str(parse_object(response.body).get("status")) if response else ""
        return status if re.fullmatch("[A-Z_]{1,30}", status) else ""

    async def _try(self, content: bytes, end: float) -> RemoteAnswer:
        response = await self.request("POST", "/predictions", end=end, content=content)
        status = response.status
        prediction = parse_object(response.body)
        has_failed = prediction.get("status") == "failed"
        if status == 409:
            raise RequestFailedError("no free slot (HTTP 409)", cause="busy", may_retry=True)
        if status == 503 or (status == 502 and not has_failed):
            # The service still starts, or a proxy cannot reach it yet.
            if await self.health() == "SETUP_FAILED":
                remedy = REMEDIES_BY_HEALTH["SETUP_FAILED"]
                raise RequestFailedError("its setup failed", remedy, "unreachable")
            failure = f"not ready (HTTP {status})"
            raise RequestFailedError(failure, cause="unreachable", may_retry=True)
        if status == 401:
            failure = "the key is missing or wrong (HTTP 401)"
            raise RequestFailedError(failure, "send the right key (api_key of Client)")
        if status == 429 and not isinstance(read_error(prediction), QueueFullError):
            failure, seconds = "too much at a time (HTTP 429)", retry_after(response)
            raise RequestFailedError(failure, cause="busy", retry_after=seconds, may_retry=True)
        if status == 422 and (refusal := read_schema_refusal(prediction)):
            raise refusal
        if has_failed and status == 200 and _is_lost(prediction):
            raise WorkerDiedError("the worker died while it had the request", cause="died")
        if has_failed or (status == 200 and "status" in prediction):
            return read_prediction(prediction)
        raise RequestFailedError(
            f"POST /predictions answered HTTP {status} with {first_line(response.body)}",
            "check the URL, and what stands between here and the Cog server",
        )


def _is_lost(prediction: Mapping[str, Any]) -> bool:
    """Whether Cog failed a prediction of which the service had recorded nothing.

    The service records each error that it raises, and the metrics of each answer.
    """
    metrics = prediction.get("metrics")
    has_metrics = isinstance(metrics, dict) and not metrics.keys() <= {"predict_time"}
    return not has_metrics and not str(prediction.get("error")).startswith(RAISED)
