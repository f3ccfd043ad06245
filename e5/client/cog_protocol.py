"""Cog's HTTP, which the gateway speaks too: one request's inputs -> its embeddings, or the error.

What fails only for the moment is sent again until a deadline. That is safe: embedding leaves
nothing behind, and the same inputs give the same vectors however often they are computed. Does no
IO, and knows nothing of prompts, batches or the caller's lists.
"""

import json
import re
import time
from collections.abc import Mapping

from e5.client.prediction import (
    RemoteAnswer,
    as_error,
    first_line,
    parse,
    plain,
    read_output,
    schema_refusal,
)
from e5.client.wire import NoAnswerError, Pace, Request, Steps, check_url
from e5.errors import Cause, QueueFullError, ServiceError, quoted

HEALTH_SECONDS = 5.0  # Cog gives its own health check as long
REMEDIES = {
    "BUSY": "send less at a time, or add a server",
    "READY": "try again",
    "SETUP_FAILED": "its log and its /health-check say why",
    "STARTING": "wait until it is READY, or give Client a longer deadline",
    "UNHEALTHY": "its worker is dead or its engine broke: restart it",
}


class _NotNowError(Exception):
    """A try that failed only for the moment; its text says what was met, for a sentence."""

    def __init__(self, met: str, cause: Cause, after: float = 0.0) -> None:
        """`after`: seconds that the service asked to wait."""
        super().__init__(met)
        self.cause = cause
        self.after = after


class Cog:
    """How a Cog server that runs this service, or a gateway, is talked to.

    Attributes:
        name: of the service in errors: its URL.
        url: without a slash at its end.
        headers: of each request.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float,
        patience: float | None = None,
        api_key: str | None = None,
    ) -> None:
        """See `RemoteService`."""
        remedy = "use the URL of a Cog server, as in http://127.0.0.1:5000, or replicate:owner/name"
        self.url = self.name = str(check_url(url, "url", remedy)).rstrip("/")
        self.headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._deadline = deadline
        self._patience = patience

    def embed(self, inputs: Mapping[str, object]) -> Steps[RemoteAnswer]:
        """One prediction. No free slot, a full queue and a lost connection are tried again.

        Args:
            inputs: of the service, with `encoding_format="base64"`.

        Raises:
            E5Error: see `RemoteService.embed`.
        """
        content = json.dumps({"input": inputs}, ensure_ascii=False).encode()
        end = time.monotonic() + self._deadline
        patience = self._deadline if self._patience is None else self._patience
        pace = Pace(min(self._deadline, patience))
        pause: float | None = 0.0
        while pause is not None:
            try:
                request = Request("POST", "/predictions", end, content, after=pause)
                return (yield from self._try(request))
            except (_NotNowError, QueueFullError) as error:
                met = error
            after = met.after if isinstance(met, _NotNowError) else 0.0
            pause = pace.next(f"{self.name}: {met}.", after)
        if isinstance(met, QueueFullError):
            raise met
        raise (yield from self._given_up(met)) from met

    def health(self) -> Steps[str]:
        """What `/health-check` says in one word; "" where it says nothing."""
        try:
            answer = yield Request("GET", "/health-check", time.monotonic() + HEALTH_SECONDS)
        except NoAnswerError:
            return ""
        word = parse(answer.body).get("status")
        return word if isinstance(word, str) and re.fullmatch("[A-Z_]{1,30}", word) else ""

    def _try(self, request: Request) -> Steps[RemoteAnswer]:
        try:
            answer = yield request
        except NoAnswerError as error:
            raise self._unanswered(error) from error
        if answer.status == 409:
            raise _NotNowError("no free slot (HTTP 409)", "busy")
        told = parse(answer.body)
        has_failed = told.get("status") == "failed"
        if answer.status == 503 or (answer.status == 502 and not has_failed):
            # It still starts, or a proxy waits for it.
            if (yield from self.health()) == "SETUP_FAILED":
                raise self._failure("its setup failed", REMEDIES["SETUP_FAILED"], "unreachable")
            raise _NotNowError(f"not ready (HTTP {answer.status})", "unreachable")
        if answer.status == 401:
            raise self._failure(
                "the key is missing or wrong (HTTP 401)", "give Client the right api_key"
            )
        refused = as_error(told.get("error")) if has_failed else None
        if answer.status == 429 and not isinstance(refused, QueueFullError):
            seconds = answer.headers.get("retry-after", "")
            after = float(seconds) if re.fullmatch(r"\d{1,4}", seconds) else 0.0
            raise _NotNowError("too much at a time (HTTP 429)", "busy", after)
        if isinstance(refused, ServiceError) and answer.status == 504:
            refused.cause = "deadline"
        if refused:
            raise refused
        if answer.status == 422 and (refusal := schema_refusal(told)):
            raise refusal
        if answer.status != 200 or "status" not in told:
            raise self._failure(
                f"POST /predictions answered HTTP {answer.status} with {first_line(answer.body)}",
                "check the URL, and what stands between here and the Cog server",
            )
        if told["status"] != "succeeded":
            raise self._failure(f"a prediction ended as {quoted(told['status'])}", "try again")
        try:
            return read_output(told.get("output"))
        except ValueError as error:
            raise self._failure(
                f"its output is not that of this service ({plain(error)})",
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

    def _given_up(self, met: _NotNowError) -> Steps[ServiceError]:
        health = yield from self.health()
        until = f" until the deadline of {self._deadline:g} s" if self._patience is None else ""
        seen = f", while /health-check says {health}" if health else ""
        # A dead worker leaves its slots taken for ever.
        is_ill = health in ("SETUP_FAILED", "UNHEALTHY")
        return self._failure(
            f"{met}{until}{seen}",
            REMEDIES.get(health, "start the service, or check the URL"),
            "unreachable" if is_ill else met.cause,
        )

    def _failure(self, what: str, remedy: str, cause: Cause = "other") -> ServiceError:
        return ServiceError(f"{self.name}: {what}; {remedy}.", cause=cause)
