"""Replicate's HTTP: the inputs of one request -> its embeddings, or the error that was meant.

A prediction is created, and asked for until it has ended or the deadline is there; then it is
canceled. Each is billed, so a create is sent again only where Replicate cannot have begun it. Does
no IO, and knows nothing of prompts, batches or the caller's lists.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from e5.client.prediction import RemoteAnswer, as_error, first_line, parse, plain, read_output
from e5.client.wire import Answer, NoAnswerError, Pace, Request, Steps, check_url
from e5.errors import Cause, InputError, ServiceError, quoted

logger = logging.getLogger(__name__)

PREFIXES = ("replicate:", "replicate-deployment:")
BASE_URL = "https://api.replicate.com"
WORD = r"[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(
    rf"replicate:(?P<model>{WORD}/{WORD})(:(?P<version>\w+))?"
    rf"|replicate-deployment:(?P<deployment>{WORD}/{WORD})",
    re.ASCII,
)
# Replicate answers a create once the prediction has ended, or after so long. Only then is its id
# known, without which it cannot be canceled; a warm model needs less for 256 texts.
WAIT_SECONDS = 10
LEAST_CANCEL_AFTER = 5  # seconds; Replicate refuses less
CREATE_SILENCE, GET_SILENCE = 65.0, 10.0
FIRST_POLL, LONGEST_POLL = 0.25, 2.0
FAREWELL_SECONDS = 5.0
ENDED = ("succeeded", "failed", "canceled", "aborted")
REFUSALS: dict[int, tuple[str, str]] = {
    401: (
        "Replicate does not accept REPLICATE_API_TOKEN",
        "set it to a token of replicate.com/account/api-tokens",
    ),
    402: (
        "the account of REPLICATE_API_TOKEN has no credit",
        "add a payment method at replicate.com/account/billing",
    ),
    403: (
        "REPLICATE_API_TOKEN may not run it",
        "use a token of its owner, or of a member of the organization",
    ),
    404: (
        "there is no such model, version or deployment, or REPLICATE_API_TOKEN may not see it",
        "check the name and whose token it is",
    ),
    422: ("Replicate refused the request", "check that the version is one of this service"),
    429: ("Replicate takes no more requests at the moment", "send less at a time"),
}


class Replicate:
    """How a model or a deployment on Replicate that runs this service is talked to.

    Attributes:
        name: of the service in errors: its address.
        url: of Replicate's API, without a slash at its end.
        headers: of each request. They hold the token, which is shown nowhere.
    """

    def __init__(self, address: str, *, deadline: float, patience: float | None = None) -> None:
        """See `RemoteService`. Reads REPLICATE_API_TOKEN, and REPLICATE_BASE_URL if it is set."""
        found = ADDRESS.fullmatch(address)
        if found is None:
            remedy = "use replicate:owner/name, replicate:owner/name:version"
            raise InputError("url", quoted(address), f"{remedy} or replicate-deployment:owner/name")
        self._model, self._deployment = found["model"], found["deployment"]
        self._version: str | None = found["version"]
        self.name = address
        base = os.environ.get("REPLICATE_BASE_URL") or BASE_URL
        remedy = f"leave it out, or use a URL as in {BASE_URL}"
        url = str(check_url(base, "REPLICATE_BASE_URL", remedy))
        self.url = url.rstrip("/").removesuffix("/v1")  # which Replicate's own client has there
        self._token = _token()
        self.headers: Mapping[str, str] = {"Authorization": f"Bearer {self._token}"}
        self._deadline = deadline
        self._patience = deadline if patience is None else min(deadline, patience)

    def embed(self, inputs: Mapping[str, object]) -> Steps[RemoteAnswer]:
        """One prediction, which is canceled if it has not ended when the caller or the time has.

        Args:
            inputs: of the service, with `encoding_format="base64"`.

        Raises:
            E5Error: see `RemoteService.embed`.
        """
        end = time.monotonic() + self._deadline
        if self._deployment:
            route, version = f"/v1/deployments/{self._deployment}/predictions", {}
        else:
            route, version = "/v1/predictions", {"version": (yield from self._latest(end))}
        content = json.dumps({**version, "input": inputs}, ensure_ascii=False).encode()
        prediction = yield from self._call(
            lambda after: Request(
                "POST", route, end, content, self._waits(end - after), after, CREATE_SILENCE
            ),
            self._patience,
        )
        if prediction.get("status") not in ENDED:
            path = self._path(prediction)
            try:
                prediction = yield from self._ended(path, prediction, end)
            except GeneratorExit:  # nobody is there to send anything
                raise
            except BaseException:  # the deadline is there; or the caller was cancelled
                with suppress(Exception):
                    until = time.monotonic() + FAREWELL_SECONDS
                    yield Request("POST", f"{path}/cancel", until)
                raise
        if prediction["status"] == "failed":
            raise as_error(prediction.get("error"))
        if prediction["status"] != "succeeded":
            raise self._failure(f"the prediction was {prediction['status']}", "try again")
        try:
            return read_output(prediction.get("output"))
        except ValueError as error:
            raise self._failure(
                f"its output is not that of this service ({plain(error)})",
                "check that the model is an E5 service",
            ) from error

    def health(self) -> Steps[str]:
        """READY where Replicate knows the token's account; "" otherwise. Starts no model."""
        try:
            answer = yield Request("GET", "/v1/account", time.monotonic() + FAREWELL_SECONDS)
        except NoAnswerError:
            return ""
        return "READY" if answer.status == 200 else ""

    def _latest(self, end: float) -> Steps[str]:
        """The version of the model; the newest one where none is named, asked once."""
        if self._version is None:
            model = yield from self._get(f"/v1/models/{self._model}", end)
            newest = model.get("latest_version")
            version = newest.get("id") if isinstance(newest, dict) else None
            if not isinstance(version, str) or not re.fullmatch(r"\w{1,99}", version, re.ASCII):
                raise self._failure("the model has no version", "push one, or name another model")
            self._version = self._version or version
            logger.info("%s: its newest version is %s", self.name, self._version)
        return self._version

    def _waits(self, end: float) -> dict[str, str]:
        """Headers of a create: until when to wait for the output, and for how long to try."""
        seconds_left = max(end - time.monotonic(), 0)
        wait = min(WAIT_SECONDS, int(seconds_left / 2))  # so that the id is there before the end
        cancel_after = max(LEAST_CANCEL_AFTER, math.ceil(seconds_left))
        return {
            **({"Prefer": f"wait={wait}"} if wait else {}),
            "Cancel-After": f"{cancel_after}s",
        }

    def _ended(self, path: str, prediction: dict[str, Any], end: float) -> Steps[dict[str, Any]]:
        """The prediction, once it has ended."""
        pause = FIRST_POLL
        while prediction.get("status") not in ENDED:
            if time.monotonic() + pause >= end:
                raise self._late(f"the prediction is {quoted(prediction.get('status'))}")
            prediction = yield from self._get(path, end, pause)
            pause = min(2 * pause, LONGEST_POLL)
        return prediction

    def _get(self, path: str, end: float, pause: float = 0.0) -> Steps[dict[str, Any]]:
        """What is there, after a pause."""
        return (
            yield from self._call(
                lambda after: Request(
                    "GET", path, end, after=max(after, pause), silence=GET_SILENCE
                ),
                end - time.monotonic(),
            )
        )

    def _call(self, build: Callable[[float], Request], patience: float) -> Steps[dict[str, Any]]:
        """The object that a request is answered with.

        A create may have begun, and cost, whatever came back but 429. All else may be sent twice.

        Args:
            build: makes the request; told the seconds to wait before it.
            patience: seconds in which it may be sent again.
        """
        pace = Pace(patience)
        pause: float | None = 0.0
        while pause is not None:
            request = build(pause)
            met: ServiceError
            cause = None
            try:
                answer = yield request
            except NoAnswerError as error:
                met, cause = self._unanswered(error, request), error
                again = error.kind == "refused" or (error.kind, request.method) == ("lost", "GET")
            else:
                if 200 <= answer.status < 300 and (found := parse(answer.body)):
                    return found
                met = self._refusal(answer)
                again = answer.status == 429 or (answer.status >= 500 and request.method == "GET")
            pause = pace.next(str(met), met.retry_after or 0.0) if again else None
        raise met from cause

    def _path(self, prediction: Mapping[str, Any]) -> str:
        """Where to ask for the prediction; at no other server, for the token goes with it."""
        urls = prediction.get("urls")
        url = urls.get("get") if isinstance(urls, dict) else None
        found = re.fullmatch(rf"{re.escape(self.url)}(/v1/predictions/\w+)", str(url), re.ASCII)
        if found is None:
            raise self._failure(
                f"the prediction is at another address than {self.url}", "check REPLICATE_BASE_URL"
            )
        return found[1]

    def _unanswered(self, error: NoAnswerError, request: Request) -> ServiceError:
        if error.kind == "late":
            return self._late("no answer")
        if error.kind == "lost" and request.method == "POST":
            return self._failure(
                f"no answer to a prediction that was sent ({error})",
                "try again; it was not sent twice, because it may have begun and is billed",
                "unreachable",
            )
        return self._failure(
            f"no answer of Replicate ({error})",
            "check the network, the proxy and REPLICATE_BASE_URL",
            "unreachable",
        )

    def _refusal(self, answer: Answer) -> ServiceError:
        status = answer.status
        if status in REFUSALS:
            what, remedy = REFUSALS[status]
            told = self._told(answer) if status in (422, 429) else ""
            busy = status == 429
            return self._failure(
                f"{what} (HTTP {status}{told})",
                remedy,
                "busy" if busy else "other",
                _seconds_named(answer) if busy else None,
            )
        return self._failure(
            f"Replicate answered HTTP {status}{self._told(answer)}",
            "try again" if status >= 500 else "check REPLICATE_BASE_URL and the proxy",
            "unreachable" if status >= 500 else "other",
        )

    def _told(self, answer: Answer) -> str:
        """Replicate's own words, without the token, should they repeat it."""
        body = answer.body.replace(self._token.encode(), b"...")
        detail = parse(body).get("detail")
        return ": " + (quoted(plain(detail)) if detail else first_line(body))

    def _late(self, what: str) -> ServiceError:
        return self._failure(
            f"{what} at the deadline of {self._deadline:g} s",
            "give a longer one, or keep an instance running with a deployment",
            "deadline",
        )

    def _failure(
        self, what: str, remedy: str, cause: Cause = "other", retry_after: float | None = None
    ) -> ServiceError:
        sentence = f"{self.name}: {what}; {remedy}."
        return ServiceError(sentence, cause=cause, retry_after=retry_after)


def _token() -> str:
    token = os.environ.get("REPLICATE_API_TOKEN", "").strip()
    if not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII):  # shown nowhere, whatever it is
        received = "what is no token" if token else "nothing"
        remedy = "set it to a token of replicate.com/account/api-tokens"
        raise InputError("REPLICATE_API_TOKEN", received, remedy)
    return token


def _seconds_named(answer: Answer) -> float | None:
    """How long to wait, as an HTTP 429 says.

    Example:
        >>> detail = b'{"detail": "Request was throttled. Your rate limit resets in ~30s."}'
        >>> _seconds_named(Answer(429, {}, detail))
        30.0
    """
    found = re.search(r"resets in ~?(\d{1,4})s", str(parse(answer.body).get("detail")))
    headers = (answer.headers.get(name, "") for name in ("retry-after", "ratelimit-reset"))
    for told in (found[1] if found else "", *headers):
        if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", told):  # a larger number would be a date
            return float(told)
    return None
