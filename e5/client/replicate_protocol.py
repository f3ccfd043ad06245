"""Replicate's HTTP: the inputs of one request -> its vectors, or the error of the service.

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
from typing import Any

from e5.client.prediction import (
    RemoteAnswer,
    RequestFailedError,
    first_line,
    parse_object,
    read_prediction,
    short_line,
)
from e5.client.transport import (
    HttpResponse,
    Transport,
    check_url,
    retry,
    retry_after,
)
from e5.errors import Cause, InputError, quoted

logger = logging.getLogger(__name__)

ADDRESS_PREFIXES = ("replicate:", "replicate-deployment:")
BASE_URL = "https://api.replicate.com"
NAME = r"[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(
    rf"replicate:(?P<model>{NAME}/{NAME})(:(?P<version>\w+))?"
    rf"|replicate-deployment:(?P<deployment>{NAME}/{NAME})",
    re.ASCII,
)
# Replicate answers the request for a new prediction once that has ended, or after so many seconds.
# Only then is its id known, without which it cannot be canceled; a warm model needs less for 256
# texts.
WAIT_SECONDS = 10
MIN_CANCEL_AFTER = 5  # seconds; Replicate refuses less
# Any request but the one for a new prediction fails after so long without a byte.
SILENT_SECONDS = 10.0
ENDED = ("succeeded", "failed", "canceled", "aborted")
TOKEN_REMEDY = "set it to a token of replicate.com/account/api-tokens"
FAILURES_BY_STATUS: dict[int, tuple[str, str]] = {  # each with its remedy
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


class ReplicateProtocol(Transport):
    """The protocol of a model or a deployment on Replicate that runs this service.

    See `RemoteService`. The token is shown in no error and no log.
    """

    reports_health = False  # Replicate tells only whether it knows the account
    late_remedy = "allow a longer deadline, or keep an instance running with a deployment"
    address_remedy = "check the network, the proxy and REPLICATE_BASE_URL"

    def __init__(self, address: str, **options: Any) -> None:
        """Read REPLICATE_API_TOKEN and REPLICATE_BASE_URL; the options are those of `Transport`."""
        match = ADDRESS.fullmatch(address)
        if match is None:
            remedy = "use replicate:owner/name, replicate:owner/name:version"
            raise InputError("url", quoted(address), f"{remedy} or replicate-deployment:owner/name")
        self._model, self._deployment = match["model"], match["deployment"]
        self._version: str | None = match["version"]
        base = os.environ.get("REPLICATE_BASE_URL") or BASE_URL
        remedy = f"leave it out, or use a URL as in {BASE_URL}"
        url = str(check_url(base, "REPLICATE_BASE_URL", remedy))
        url = url.rstrip("/").removesuffix("/v1")  # Replicate's own client allows it
        self._token = os.environ.get("REPLICATE_API_TOKEN", "").strip()
        if not re.fullmatch(r"[\w.~+/=-]+", self._token, re.ASCII):
            received = "a value that cannot be a token" if self._token else "nothing"
            raise InputError("REPLICATE_API_TOKEN", received, TOKEN_REMEDY)
        super().__init__(address, url, {"Authorization": f"Bearer {self._token}"}, **options)
        self._cancellations: set[asyncio.Task[HttpResponse | None]] = set()

    async def embed(self, inputs: Mapping[str, object], end: float) -> RemoteAnswer:
        """The answer to one request. The prediction is canceled unless it ended in time."""
        if self._deployment:
            path, version = f"/v1/deployments/{self._deployment}/predictions", {}
        else:
            path, version = "/v1/predictions", {"version": await self._newest_version(end)}
        content = json.dumps({**version, "input": inputs}, ensure_ascii=False).encode()
        prediction = await retry(
            lambda: self._create(path, end, content), self.name, self._retry_seconds
        )
        if prediction.get("status") not in ENDED:
            path = self._path_of(prediction)
            try:
                prediction = await self._ended(path, prediction, end)
            except (Exception, asyncio.CancelledError):
                await self._cancel(path)
                raise
        return read_prediction(prediction)

    async def health(self) -> str:
        """READY if Replicate knows the token's account, else "". This starts no model."""
        response = await self.brief_request("GET", "/v1/account")
        return "READY" if response and response.status == 200 else ""

    async def aclose(self) -> None:
        """Close the connections, once all requests to cancel a prediction are answered."""
        await asyncio.gather(*self._cancellations)
        await super().aclose()

    async def _newest_version(self, end: float) -> str:
        """The version that the address names; else the newest one of the model, asked once."""
        if self._version is None:
            model = await self._get(f"/v1/models/{self._model}", end)
            newest = model.get("latest_version")
            version = newest.get("id") if isinstance(newest, dict) else None
            if not isinstance(version, str) or not re.fullmatch(r"\w{1,99}", version, re.ASCII):
                failure = "the model has no version"
                raise RequestFailedError(failure, "push one, or name another model")
            self._version = version
            logger.info("%s: its newest version is %s", self.name, version)
        return self._version

    async def _ended(self, path: str, prediction: dict[str, Any], end: float) -> dict[str, Any]:
        """The prediction, once it has ended."""
        pause = self._limits.first_poll
        while prediction.get("status") not in ENDED:
            if time.monotonic() + pause >= end:
                status = quoted(prediction.get("status"))
                failure = f"the prediction is {status} at the deadline of {self._deadline:g} s"
                raise RequestFailedError(failure, self.late_remedy, "deadline")
            await asyncio.sleep(pause)
            prediction = await self._get(path, end, pause)
            pause = min(2 * pause, 8 * self._limits.first_poll)
        return prediction

    async def _cancel(self, path: str) -> None:
        """Ask Replicate to cancel a prediction.

        In a task of its own: some frameworks cancel whatever the caller's task awaits from now on.
        """
        cancellation = asyncio.create_task(self.brief_request("POST", f"{path}/cancel"))
        self._cancellations.add(cancellation)
        cancellation.add_done_callback(self._cancellations.discard)
        await asyncio.shield(cancellation)

    async def _create(self, path: str, end: float, content: bytes) -> dict[str, Any]:
        """A new prediction. It may have begun, and cost, whatever comes back but HTTP 429."""
        seconds_left = max(end - time.monotonic(), 0)
        cancel_after = max(MIN_CANCEL_AFTER, math.ceil(seconds_left))
        headers = {"Cancel-After": f"{cancel_after}s"}
        if wait := min(WAIT_SECONDS, int(seconds_left / 2)):  # so that the id is known before `end`
            headers["Prefer"] = f"wait={wait}"
        response = await self.request(
            "POST",
            path,
            end=end,
            content=content,
            headers=headers,
            silence=self._limits.create_silence,
            is_billed=True,
        )
        return self._object_in(response, may_retry=response.status == 429)

    async def _get(self, path: str, end: float, pause: float = 0.0) -> dict[str, Any]:
        """The object that a GET is answered with. It may be sent again, after such a pause."""

        async def attempt() -> dict[str, Any]:
            response = await self.request("GET", path, end=end, silence=SILENT_SECONDS)
            may_retry = response.status == 429 or response.status >= 500
            return self._object_in(response, may_retry=may_retry)

        return await retry(attempt, self.name, end - time.monotonic(), at_least=pause)

    def _path_of(self, prediction: Mapping[str, Any]) -> str:
        """Where to ask for the prediction; at no other server, because the token goes with it."""
        urls = prediction.get("urls")
        url = urls.get("get") if isinstance(urls, dict) else None
        match = re.fullmatch(rf"{re.escape(self._url)}(/v1/predictions/\w+)", str(url), re.ASCII)
        if match is None:
            failure = f"the prediction is at another address than {self._url}"
            raise RequestFailedError(failure, "check REPLICATE_BASE_URL")
        return match[1]

    def _object_in(self, response: HttpResponse, *, may_retry: bool) -> dict[str, Any]:
        """The object in a good answer; any other is a `RequestFailedError`."""
        status = response.status
        if 200 <= status < 300 and (answered := parse_object(response.body)):
            return answered
        # Replicate's own explanation, without the token, should that be repeated in it.
        body = response.body.replace(self._token.encode(), b"...")
        detail = parse_object(body).get("detail")
        reason = quoted(short_line(detail)) if detail else first_line(body)
        failure, remedy = FAILURES_BY_STATUS.get(status, ("", ""))
        if failure:
            failure = f"{failure} (HTTP {status}{f': {reason}' if status in (422, 429) else ''})"
        else:
            failure = f"Replicate answered HTTP {status}: {reason}"
            remedy = "try again" if status >= 500 else "check REPLICATE_BASE_URL and the proxy"
        cause: Cause = "busy" if status == 429 else "unreachable" if status >= 500 else "other"
        seconds = retry_after(response) if status == 429 else None
        raise RequestFailedError(failure, remedy, cause, retry_after=seconds, may_retry=may_retry)
