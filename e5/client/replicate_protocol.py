"""Replicate's HTTP: the inputs of one request -> its vectors, or the error that was meant.

A prediction is created, and asked for until it has ended or the deadline has passed; then it is
canceled. Each is billed, so one is created again only where Replicate cannot have begun it.
"""

import asyncio
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from e5.client.prediction import (
    RemoteAnswer,
    first_line,
    parse_object,
    read_prediction,
    service_error,
    short_line,
)
from e5.client.transport import (
    Backoff,
    ClientLimits,
    HttpResponse,
    NoAnswerError,
    Transport,
    check_url,
)
from e5.errors import InputError, ServiceError, quoted

logger = logging.getLogger(__name__)

ADDRESS_PREFIXES = ("replicate:", "replicate-deployment:")
BASE_URL = "https://api.replicate.com"
NAME = r"[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(
    rf"replicate:(?P<model>{NAME}/{NAME})(:(?P<version>\w+))?"
    rf"|replicate-deployment:(?P<deployment>{NAME}/{NAME})",
    re.ASCII,
)
# Replicate answers a create once the prediction has ended, or after so long. Only then is its id
# known, without which it cannot be canceled; a warm model needs less for 256 texts.
WAIT_SECONDS = 10
LEAST_CANCEL_AFTER = 5  # seconds; Replicate refuses less
CANCEL_SECONDS = ACCOUNT_SECONDS = 5.0
ENDED = ("succeeded", "failed", "canceled", "aborted")
TOKEN_REMEDY = "set it to a token of replicate.com/account/api-tokens"
FAILURES_BY_STATUS: dict[int, tuple[str, str]] = {  # and the remedy of each
    401: ("Replicate does not accept REPLICATE_API_TOKEN", TOKEN_REMEDY),
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


class ReplicateProtocol:
    """How to talk to a model or a deployment on Replicate that runs this service.

    See `RemoteService`. The token is shown in no error and no log.
    """

    reports_health = False  # Replicate tells only whether it knows the account

    def __init__(
        self, address: str, *, deadline: float, retry_seconds: float | None, limits: ClientLimits
    ) -> None:
        """Read REPLICATE_API_TOKEN, and REPLICATE_BASE_URL if it is set."""
        match = ADDRESS.fullmatch(address)
        if match is None:
            remedy = "use replicate:owner/name, replicate:owner/name:version"
            raise InputError("url", quoted(address), f"{remedy} or replicate-deployment:owner/name")
        self._model, self._deployment = match["model"], match["deployment"]
        self._version: str | None = match["version"]
        self.name = address
        base = os.environ.get("REPLICATE_BASE_URL") or BASE_URL
        remedy = f"leave it out, or use a URL as in {BASE_URL}"
        url = str(check_url(base, "REPLICATE_BASE_URL", remedy))
        self._url = url.rstrip("/").removesuffix("/v1")  # Replicate's own client allows it
        self._token = _token()
        headers = {"Authorization": f"Bearer {self._token}"}
        self._transport = Transport(address, self._url, headers, answer_bytes=limits.answer_bytes)
        self._failure = partial(service_error, address)
        self._deadline = deadline
        self._retry_seconds = deadline if retry_seconds is None else min(deadline, retry_seconds)
        self._limits = limits
        self._cancellations: set[asyncio.Task[None]] = set()

    async def embed(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """The answer to one request. The prediction is canceled unless it ended in time."""
        end = time.monotonic() + self._deadline
        if self._deployment:
            path, version = f"/v1/deployments/{self._deployment}/predictions", {}
        else:
            path, version = "/v1/predictions", {"version": await self._newest_version(end)}
        content = json.dumps({**version, "input": inputs}, ensure_ascii=False).encode()
        prediction = await self._call(path, end, self._retry_seconds, content=content)
        if prediction.get("status") not in ENDED:
            path = self._path(prediction)
            try:
                prediction = await self._ended(path, prediction, end)
            except (Exception, asyncio.CancelledError):
                await self._cancel(path)
                raise
        return read_prediction(prediction, self.name)

    async def health(self) -> str:
        """READY where Replicate knows the token's account; "" otherwise. Starts no model."""
        end = time.monotonic() + ACCOUNT_SECONDS
        try:
            response = await self._transport.request("GET", "/v1/account", end=end)
        except NoAnswerError:
            return ""
        return "READY" if response.status == 200 else ""

    async def aclose(self) -> None:
        """Close the connections, once Replicate has been asked to cancel what was given up."""
        await asyncio.gather(*self._cancellations)
        await self._transport.aclose()

    async def _newest_version(self, end: float) -> str:
        """The version that the address names; else the newest one of the model, asked once."""
        if self._version is None:
            model = await self._call(f"/v1/models/{self._model}", end, end - time.monotonic())
            newest = model.get("latest_version")
            version = newest.get("id") if isinstance(newest, dict) else None
            if not isinstance(version, str) or not re.fullmatch(r"\w{1,99}", version, re.ASCII):
                raise self._failure("the model has no version", "push one, or name another model")
            self._version = version
            logger.info("%s: its newest version is %s", self.name, version)
        return self._version

    async def _ended(self, path: str, prediction: dict[str, Any], end: float) -> dict[str, Any]:
        """The prediction, once it has ended."""
        pause = self._limits.first_poll
        while prediction.get("status") not in ENDED:
            if time.monotonic() + pause >= end:
                raise self._late(f"the prediction is {quoted(prediction.get('status'))}")
            await asyncio.sleep(pause)
            prediction = await self._call(path, end, end - time.monotonic(), pause=pause)
            pause = min(2 * pause, self._limits.longest_poll)
        return prediction

    async def _cancel(self, path: str) -> None:
        """Ask Replicate to cancel a prediction.

        In a task of its own: some frameworks cancel whatever the caller's task awaits from now on.
        """

        async def send() -> None:
            with suppress(Exception):
                end = time.monotonic() + CANCEL_SECONDS
                await self._transport.request("POST", f"{path}/cancel", end=end)

        cancellation = asyncio.create_task(send())
        self._cancellations.add(cancellation)
        cancellation.add_done_callback(self._cancellations.discard)
        await asyncio.shield(cancellation)

    async def _call(
        self,
        path: str,
        end: float,
        retry_seconds: float,
        *,
        content: bytes | None = None,
        pause: float = 0.0,
    ) -> dict[str, Any]:
        """The object that a request is answered with.

        A create may have begun, and cost, whatever came back but 429. All else may be sent twice.

        Args:
            path: of the request.
            end: when the answer must be there, by `time.monotonic`.
            retry_seconds: seconds in which it may be sent again.
            content: the body of a create; None for a GET.
            pause: seconds to wait at least before it is sent again.
        """
        is_create = content is not None
        silence = self._limits.create_silence if is_create else self._limits.get_silence
        backoff = Backoff(retry_seconds)
        while True:
            headers = _create_headers(end) if is_create else {}
            request = self._transport.request(
                "POST" if is_create else "GET",
                path,
                end=end,
                content=content,
                headers=headers,
                silence=silence,
            )
            cause = None
            try:
                response = await request
            except NoAnswerError as error:
                failure, cause = self._unanswered(error, is_create=is_create), error
                may_retry = error.kind == "refused" or (error.kind == "lost" and not is_create)
            else:
                if 200 <= response.status < 300 and (body := parse_object(response.body)):
                    return body
                failure = self._refusal(response)
                may_retry = response.status == 429 or (response.status >= 500 and not is_create)
            at_least = max(failure.retry_after or 0.0, pause)
            seconds = backoff.next_pause(str(failure), at_least) if may_retry else None
            if seconds is None:
                raise failure from cause
            await asyncio.sleep(seconds)

    def _path(self, prediction: Mapping[str, Any]) -> str:
        """Where to ask for the prediction; at no other server, because the token goes with it."""
        urls = prediction.get("urls")
        url = urls.get("get") if isinstance(urls, dict) else None
        match = re.fullmatch(rf"{re.escape(self._url)}(/v1/predictions/\w+)", str(url), re.ASCII)
        if match is None:
            failure = f"the prediction is at another address than {self._url}"
            raise self._failure(failure, "check REPLICATE_BASE_URL")
        return match[1]

    def _unanswered(self, error: NoAnswerError, *, is_create: bool) -> ServiceError:
        if error.kind == "late":
            return self._late("no answer")
        failure = f"no answer of Replicate ({error})"
        remedy = "check the network, the proxy and REPLICATE_BASE_URL"
        if error.kind == "lost" and is_create:
            failure = f"no answer to a prediction that was sent ({error})"
            remedy = "try again; it was not sent twice, because it may have begun and is billed"
        return self._failure(failure, remedy, "unreachable")

    def _refusal(self, response: HttpResponse) -> ServiceError:
        status = response.status
        # Replicate's own explanation, without the token, should that be repeated in it.
        body = response.body.replace(self._token.encode(), b"...")
        detail = parse_object(body).get("detail")
        reason = quoted(short_line(detail)) if detail else first_line(body)
        if status in FAILURES_BY_STATUS:
            failure, remedy = FAILURES_BY_STATUS[status]
            failure = f"{failure} (HTTP {status}{f': {reason}' if status in (422, 429) else ''})"
            if status == 429:
                return self._failure(failure, remedy, "busy", _retry_after(response))
            return self._failure(failure, remedy)
        failure = f"Replicate answered HTTP {status}: {reason}"
        if status >= 500:
            return self._failure(failure, "try again", "unreachable")
        return self._failure(failure, "check REPLICATE_BASE_URL and the proxy")

    def _late(self, failure: str) -> ServiceError:
        failure = f"{failure} at the deadline of {self._deadline:g} s"
        remedy = "give a longer one, or keep an instance running with a deployment"
        return self._failure(failure, remedy, "deadline")


def _token() -> str:
    token = os.environ.get("REPLICATE_API_TOKEN", "").strip()
    if not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII):  # never shown: it may be a secret
        received = "a value that cannot be a token" if token else "nothing"
        raise InputError("REPLICATE_API_TOKEN", received, TOKEN_REMEDY)
    return token


def _create_headers(end: float) -> dict[str, str]:
    """Until when a create waits for the output, and after how long Replicate gives it up."""
    seconds_left = max(end - time.monotonic(), 0)
    wait = min(WAIT_SECONDS, int(seconds_left / 2))  # so that the id is known before the end
    cancel_after = max(LEAST_CANCEL_AFTER, math.ceil(seconds_left))
    return {**({"Prefer": f"wait={wait}"} if wait else {}), "Cancel-After": f"{cancel_after}s"}


def _retry_after(response: HttpResponse) -> float | None:
    """Seconds to wait, as an HTTP 429 names them.

    Example:
        >>> detail = b'{"detail": "Request was throttled. Your rate limit resets in ~30s."}'
        >>> _retry_after(HttpResponse(429, {}, detail))
        30.0
    """
    detail = str(parse_object(response.body).get("detail"))
    match = re.search(r"resets in ~?(\d{1,4})s", detail)
    headers = (response.headers.get(name, "") for name in ("retry-after", "ratelimit-reset"))
    for seconds in (match[1] if match else "", *headers):
        if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", seconds):  # a larger number would be a date
            return float(seconds)
    return None
