"""Who computes for the gateway: the model in this process, or a service elsewhere.

Both answer a service's request. Knows nothing of HTTP routes or wire formats.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from e5.client import UNHEALTHY_REMEDY, RemoteAnswer, RemoteService
from e5.errors import ServiceError
from e5.serving.answer import Answer
from e5.serving.request import EmbedRequest
from e5.settings import Settings

if TYPE_CHECKING:  # they bring torch
    from e5.embedder import Embedder
    from e5.serving.service import Service

logger = logging.getLogger(__name__)

# Cog frees a slot a moment after it has answered, so its first "no free slot" means little. After
# that the caller is told, and may try again: two who retry would multiply.
PATIENCE_SECONDS = 0.5
WATCH_SECONDS = 2.0
MAX_LENGTH = 4096  # tokens of a text, which a service elsewhere does not tell


@dataclass(frozen=True)
class About:
    """What a backend serves.

    Attributes:
        name: of the model, with its fingerprint.
        dimensions: of a whole vector.
        max_length: tokens kept of a text.
        max_batch_tokens: tokens computed in one forward.
    """

    name: str
    dimensions: int
    max_length: int
    max_batch_tokens: int


class Backend(Protocol):
    """Answers requests."""

    async def about(self) -> About:
        """What is served.

        Raises:
            E5Error: where it cannot be reached.
        """

    async def answer(self, request: EmbedRequest) -> Answer:
        """Vectors and usage of a request. Cancelling gives it up.

        Raises:
            E5Error: as `Service.answer`; ServiceError where the service elsewhere fails.
        """

    async def ready(self) -> bool:
        """Whether a request would be answered now."""

    def waiting_tokens(self) -> int:
        """That wait for the engine; 0 where it is elsewhere."""

    async def close(self) -> None:
        """Let go of what it holds."""


class InProcessBackend:
    """The model in this process. A `Backend`."""

    def __init__(self, embedder: "Embedder", service: "Service") -> None:
        """Take loaded parts; `load` is the usual way."""
        self._embedder = embedder
        self._service = service

    @classmethod
    def load(cls, settings: Settings) -> "InProcessBackend":
        """Load the checkpoint and try it.

        Raises:
            E5Error: as `Embedder.load`.
        """
        from e5.embedder import Embedder
        from e5.serving.service import Service

        embedder = Embedder.load(settings)
        return cls(embedder, Service(embedder, max_queue_tokens=settings.max_queue_tokens))

    async def about(self) -> About:
        """What is served."""
        embedder = self._embedder
        return About(
            embedder.name, embedder.dimensions, embedder.max_length, embedder.max_batch_tokens
        )

    async def answer(self, request: EmbedRequest) -> Answer:
        """See `Service.answer`."""
        return await self._service.answer(request)

    async def ready(self) -> bool:
        """False once the engine has broken."""
        return self._service.healthy

    def waiting_tokens(self) -> int:
        """That wait for the engine."""
        return self._service.waiting_tokens

    async def close(self) -> None:
        """Nothing to let go of: the process ends."""


class RemoteBackend:
    """A Cog server or a model on Replicate. A `Backend`."""

    def __init__(self, address: str, about: About) -> None:
        """Name the service; `find` is the usual way."""
        self._about = about
        self._remote = RemoteService(address, retry_seconds=PATIENCE_SECONDS)
        self._waiting: set[asyncio.Timeout] = set()
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def find(cls, address: str) -> "RemoteBackend":
        """Wait until the service answers, and ask what it serves.

        Raises:
            E5Error: for an address that cannot be used, or a service that does not answer in time.
        """
        logger.info("waiting for %s", address)
        remote = RemoteService(address)
        try:
            first = await remote.embed({"documents": ["a"], "encoding_format": "base64"})
        finally:
            await remote.aclose()
        dimensions = first.vectors.shape[1]
        return cls(address, About(first.model, dimensions, MAX_LENGTH, max_batch_tokens=0))

    async def about(self) -> About:
        """What was served when the gateway started."""
        return self._about

    async def answer(self, request: EmbedRequest) -> Answer:
        """One request to the service, sent again only if it had no free slot for a moment.

        Raises:
            E5Error: if the service refused; ServiceError if it failed, with the cause.
        """
        inputs: dict[str, object] = {
            "task": request.task,
            "symmetric": request.symmetric,
            "normalize": request.normalize,
            "truncate": request.truncate,
            "encoding_format": "base64",
        }
        if request.all_queries:
            inputs["queries"] = request.all_queries
        if request.all_documents:
            inputs["documents"] = request.all_documents
        if request.dimensions is not None:
            inputs["dimensions"] = request.dimensions
        embedded = await self._ask(inputs)
        if not embedded.tokens:
            raise ServiceError("the service tells no usage; update it to this project's version.")
        return Answer(
            vectors=embedded.vectors,
            scores=np.empty((0, 0), np.float32),
            tokens=embedded.tokens,
            truncated=embedded.truncated,
            model=embedded.model,
            metrics={},
        )

    async def ready(self) -> bool:
        """Whether the service says so."""
        return await self._remote.health() in ("READY", "BUSY")

    def waiting_tokens(self) -> int:
        """Not known here."""
        return 0

    async def close(self) -> None:
        """Close the connections."""
        if self._watching:
            self._watching.cancel()
        await self._remote.aclose()

    async def _ask(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        if self._watching is None and self._remote.reports_health:
            self._watching = asyncio.create_task(self._watch())
        scope = asyncio.timeout(None)
        self._waiting.add(scope)
        try:
            async with scope:
                return await self._remote.embed(inputs)
        except TimeoutError as error:
            sentence = f"{self._remote.name}: /health-check says UNHEALTHY; {UNHEALTHY_REMEDY}."
            raise ServiceError(sentence, cause="unreachable") from error
        finally:
            self._waiting.discard(scope)

    async def _watch(self) -> None:
        """Give up what waits for a worker that is dead: Cog answers some of it never."""
        seen = ""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            before, seen = seen, await self._remote.health() if self._waiting else ""
            if before == seen == "UNHEALTHY":
                for scope in self._waiting:
                    scope.reschedule(0.0)
