"""A running service, one request at a time: its address decides which protocol it speaks."""

import re
import time
from collections.abc import Mapping
from typing import Any

from e5.client.cog_protocol import CogProtocol
from e5.client.prediction import RemoteAnswer, RequestFailedError
from e5.client.replicate_protocol import ADDRESS_PREFIXES, ReplicateProtocol
from e5.client.transport import ClientLimits
from e5.data_uris import change_texts, escape
from e5.errors import InputError, ServiceError, quoted

# Of one request: long enough for a 7B model to be loaded, or for a full queue to empty.
DEADLINE_SECONDS = 300.0
MAX_DEADLINE = 86_400.0  # a day
KEY = re.compile(r"[!-~]+")


class RemoteService:
    """A Cog server, a gateway or a model on Replicate, for one event loop.

    Any number of requests may be under way at a time.

    Attributes:
        name: the name of the service in errors: its address.
        reports_health: whether `health` says if the service can compute; false for Replicate.
    """

    def __init__(
        self,
        address: str,
        *,
        deadline: float = DEADLINE_SECONDS,
        retry_seconds: float | None = None,
        api_key: str | None = None,
        limits: ClientLimits = ClientLimits(),  # noqa: B008  # it is frozen
    ) -> None:
        """Connects when it is first used.

        Args:
            address: the `url` of `Client`.
            deadline: see `Client`.
            retry_seconds: seconds in which a request may be sent again after what failed only for
                the moment; 0 for never, None for as long as the deadline.
            api_key: see `Client`.
            limits: of answers and pauses.

        Raises:
            InputError, ServiceError: see `Client`.
        """
        if not (isinstance(deadline, int | float) and 0 < deadline <= MAX_DEADLINE):
            raise InputError("deadline", quoted(deadline), f"use seconds up to {MAX_DEADLINE:.0f}")
        wanted = deadline if retry_seconds is None else retry_seconds
        if not (isinstance(wanted, int | float) and wanted >= 0):
            raise InputError("retry_seconds", quoted(wanted), "use seconds, 0 for none")
        self._deadline = deadline
        seconds = min(wanted, deadline)
        options: Any = {"deadline": deadline, "retry_seconds": seconds, "limits": limits}
        self._protocol: CogProtocol | ReplicateProtocol
        if isinstance(address, str) and address.startswith(ADDRESS_PREFIXES):
            if api_key is not None:
                remedy = "set REPLICATE_API_TOKEN instead"
                raise InputError("api_key", "a key for Replicate", remedy)
            self._protocol = ReplicateProtocol(address, **options)
        else:
            # The key is never shown, whatever it is.
            if api_key is not None and not (isinstance(api_key, str) and KEY.fullmatch(api_key)):
                remedy = "use one line of ASCII, without spaces"
                raise InputError("api_key", "a value that cannot be a key", remedy)
            self._protocol = CogProtocol(address, api_key, **options)
        self.name = self._protocol.name
        self.reports_health = self._protocol.reports_health
        # READY where the service answers requests, or another status; "" where nothing answers.
        self.health = self._protocol.health
        self.aclose = self._protocol.aclose  # closes the connections

    async def embed(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """Embed the texts of one request. Cancelling it cancels what the service computes for it.

        A text that is a data URI is embedded as it stands here, and not what it holds.

        Args:
            inputs: the service's inputs, with `encoding_format="base64"`.

        Raises:
            E5Error: the service's own error; EngineError where it failed for another reason.
            ServiceError: the service is busy, cannot be reached, is not ready in time, or is none
                of this kind; `cause` says which.
            RuntimeError: it was closed.
        """
        inputs = change_texts(inputs, escape)
        try:
            return await self._protocol.embed(inputs, time.monotonic() + self._deadline)
        except RequestFailedError as error:
            sentence = f"{self.name}: {error}; {error.remedy}."
            raise ServiceError(
                sentence, cause=error.cause, retry_after=error.retry_after
            ) from error
