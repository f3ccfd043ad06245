"""What computes for the gateway: the model in this process, or a remote service."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from e5.client import DEADLINE_SECONDS, UNHEALTHY_REMEDY, RemoteAnswer, RemoteService
from e5.errors import ServiceError
from e5.gateway.remote_tokenizer import PROBE_TEXTS, check_counts, read_tokenizer
from e5.serving import Answer, EmbedRequest
from e5.settings import Settings

if TYPE_CHECKING:  # they bring torch, or the tokenizer's library
    from e5.embedder import Embedder
    from e5.prompt_tokenizer import PromptTokenizer
    from e5.serving import ServedModel, Service

logger = logging.getLogger(__name__)

# Cog frees a slot a moment after it has answered, so its first "no free slot" means little. A later
# one is the caller's to repeat: if both the gateway and the caller did, the tries would multiply.
BUSY_RETRY_SECONDS = 0.5
WATCH_SECONDS = 2.0
MAX_LENGTH = 4096  # tokens of a text; a remote service does not say how many it reads


@dataclass(frozen=True)
class BackendInfo:
    """What a backend serves.

    Attributes:
        name: the model's name with its fingerprint.
        dimensions: the number of dimensions of a whole vector.
        max_length: the number of tokens after which texts are truncated.
        max_batch_tokens: the largest number of tokens that are computed in one forward.
    """

    name: str
    dimensions: int
    max_length: int
    max_batch_tokens: int


class Backend(Protocol):
    """Computes the vectors of requests."""

    async def info(self) -> BackendInfo:
        """What is served.

        Raises:
            E5Error: if the backend cannot be reached.
        """

    async def answer(self, request: EmbedRequest) -> Answer:
        """The service's answer to a request. Cancelling gives the request up.

        Raises:
            E5Error: as `Service.answer`; ServiceError where a remote service fails.
        """

    async def tokenizer(self) -> "PromptTokenizer":
        """The tokenizer and the prompts of what is served.

        Raises:
            RefusalError: if there is none here, with a remedy for the operator.
            E5Error: if the backend does not answer whether the tokenizer is its own.
        """

    async def ready(self) -> bool:
        """Whether a request would be answered now."""

    @property
    def max_queue_tokens(self) -> int:
        """The number of tokens that may wait for the engine."""

    def waiting_tokens(self) -> int:
        """The number of tokens that wait for the engine; 0 for a remote service."""

    def cache_bytes(self) -> int:
        """The number of bytes that kept vectors take; 0 for a remote service."""

    async def close(self) -> None:
        """Close what the backend holds."""


_Model = TypeVar("_Model", bound="ServedModel")


class InProcessBackend(Generic[_Model]):
    """A service in this process, of its own model (`load`) or of engines. A `Backend`.

    Attributes:
        model: what is served.
    """

    def __init__(self, model: _Model, service: "Service") -> None:
        self.model = model
        self._service = service

    @classmethod
    def load(cls, settings: Settings) -> "InProcessBackend[Embedder]":
        """Load the checkpoint and run its self-check.

        Raises:
            E5Error: as `Embedder.load`.
        """
        from e5.embedder import Embedder
        from e5.serving import Service

        embedder = Embedder.load(settings)
        service = Service.of(
            embedder,
            max_queue_tokens=settings.max_queue_tokens,
            cache_bytes=settings.cache_bytes,
        )
        return InProcessBackend(embedder, service)

    async def info(self) -> BackendInfo:
        """See `Backend.info`."""
        model = self.model
        return BackendInfo(model.name, model.dimensions, model.max_length, model.max_batch_tokens)

    async def answer(self, request: EmbedRequest) -> Answer:
        """See `Service.answer`."""
        return await self._service.answer(request)

    async def tokenizer(self) -> "PromptTokenizer":
        """See `Backend.tokenizer`."""
        return self.model.prompt_tokenizer

    async def ready(self) -> bool:
        """See `Service.healthy`."""
        return self._service.healthy

    @property
    def max_queue_tokens(self) -> int:
        """See `Service.max_queue_tokens`."""
        return self._service.max_queue_tokens

    def waiting_tokens(self) -> int:
        """The number of tokens that wait for the engine."""
        return self._service.waiting_tokens

    def cache_bytes(self) -> int:
        """See `Service.cache_bytes`."""
        return self._service.cache_bytes

    async def close(self) -> None:
        """Do nothing: the process ends."""


class RemoteBackend:
    """A Cog server or a model on Replicate. A `Backend`."""

    def __init__(
        self,
        address: str,
        info: BackendInfo,
        *,
        weights: str | Path | None = None,
        deadline: float = DEADLINE_SECONDS,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        """Connect to a service whose model is known; `find` asks the service for it.

        Args:
            address: see `RemoteService`.
            info: what the service serves.
            weights: a folder with the tokenizer of the service's model.
            deadline: the seconds in which a request must be answered.
            watch_seconds: the pause between two checks of the service's health while requests wait.
        """
        self._info = info
        self._weights = weights
        self._tokenizer: PromptTokenizer | None = None
        self._remote = RemoteService(address, deadline=deadline, retry_seconds=BUSY_RETRY_SECONDS)
        self._watch_seconds = watch_seconds
        self._waiting: set[asyncio.Timeout] = set()
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def find(
        cls,
        address: str,
        *,
        weights: str | Path | None = None,
        deadline: float = DEADLINE_SECONDS,
        watch_seconds: float = WATCH_SECONDS,
    ) -> "RemoteBackend":
        """Wait until the service answers, and ask what it serves. The arguments are as above.

        Raises:
            E5Error: for an address that cannot be used, or a service that does not answer in time.
        """
        logger.info("waiting for %s", address)
        remote = RemoteService(address, deadline=deadline)
        try:
            first = await remote.embed({"documents": ["a"], "encoding_format": "base64"})
        finally:
            await remote.aclose()
        info = BackendInfo(first.model, first.vectors.shape[1], MAX_LENGTH, max_batch_tokens=0)
        return cls(address, info, weights=weights, deadline=deadline, watch_seconds=watch_seconds)

    async def info(self) -> BackendInfo:
        """What the service served when the gateway started."""
        return self._info

    async def answer(self, request: EmbedRequest) -> Answer:
        """Send one request to the service, and again only if it had no free slot for a moment.

        Raises:
            E5Error: if the service refused; ServiceError with the cause if it failed.
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
        remote = await self._embed(inputs)
        if not remote.tokens:
            raise ServiceError("the service reports no usage; update it to this project's version.")
        return Answer(
            vectors=remote.vectors,
            scores=np.empty((0, 0), np.float32),
            tokens=remote.tokens,
            truncated=remote.truncated,
            model=remote.model,
            metrics={},
        )

    async def tokenizer(self) -> "PromptTokenizer":
        """The tokenizer of the checkpoint, if it is that of the service's model.

        It is read, and compared with the service's numbers of tokens, when it is first needed.
        """
        if self._tokenizer is None:
            found = await asyncio.to_thread(read_tokenizer, self._weights, self._info.max_length)
            texts = [*PROBE_TEXTS]
            inputs = {"queries": texts, "documents": texts, "encoding_format": "base64"}
            check_counts(found, (await self._embed(inputs)).tokens)
            self._tokenizer = found
        return self._tokenizer

    async def ready(self) -> bool:
        """Whether the service says that it is ready or busy."""
        return await self._remote.health() in ("READY", "BUSY")

    @property
    def max_queue_tokens(self) -> int:
        """The default of `E5_MAX_QUEUE_TOKENS`: a remote service does not say it."""
        return Settings.max_queue_tokens

    def waiting_tokens(self) -> int:
        """0: a remote service does not say it."""
        return 0

    def cache_bytes(self) -> int:
        """0: a remote service does not say it."""
        return 0

    async def close(self) -> None:
        """Close the connections."""
        if self._watching:
            self._watching.cancel()
        await self._remote.aclose()

    async def _embed(self, inputs: Mapping[str, object]) -> RemoteAnswer:
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
        """Give up requests that wait for a dead worker: Cog never answers some of them."""
        health = ""
        while True:
            await asyncio.sleep(self._watch_seconds)
            last, health = health, await self._remote.health() if self._waiting else ""
            if last == health == "UNHEALTHY":
                for scope in self._waiting:
                    scope.reschedule(0.0)
