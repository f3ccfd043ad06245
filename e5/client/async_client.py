"""`AsyncClient`: what `Client` does, for an event loop.

Checks texts by the same rule as `Embedder`, sends a few requests at a time and waits for all. Knows
nothing of HTTP, models or tokens: the service builds the prompts and computes.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from e5.client.batch import AT_A_TIME, Batch, OneModel, Options
from e5.client.prediction import RemoteAnswer
from e5.client.remote import RemoteService
from e5.client.wire import Steps
from e5.texts import check_texts
from e5.vectors import Vectors, similarity

# Requests of one client, however many calls wait: an eighth of Cog's slots; an answer takes 6 MB.
IN_ALL = 32


class AsyncClient:
    """The same vectors as from `Client`, awaited. To be used within one event loop.

    Any number of calls may wait at a time; some requests are under way. Cancelling a call cancels
    its requests: Cog and Replicate stop computing what nobody waits for.

    Example, with a server of the built-in checkpoint on this port:
        >>> async def shape() -> tuple[int, ...]:
        ...     async with AsyncClient("http://127.0.0.1:5000") as client:
        ...         return (await client.encode_query(["how much protein"])).shape
        >>> asyncio.run(shape())
        (1, 192)
    """

    def __init__(self, url: str, *, deadline: float = 300.0, api_key: str | None = None) -> None:
        """See `Client`. May be made outside of the event loop."""
        self._remote = RemoteService(url, deadline=deadline, api_key=api_key)
        self._model = OneModel(self._remote.dialect.embed)
        self._room = asyncio.Semaphore(IN_ALL)
        self._asking: asyncio.Task[RemoteAnswer] | None = None
        self._num_waiting = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        await self._remote.aclose()

    async def name(self) -> str:
        """Of the service's model, asked once. Every later answer must come from the same.

        A method, where `Client` has a property, because the service may have to be asked.

        Raises:
            ServiceError: the service cannot be reached.
        """
        return (await self._identity()).model

    async def dimensions(self) -> int:
        """Of a whole vector, asked once.

        Raises:
            ServiceError: the service cannot be reached.
        """
        return int((await self._identity()).vectors.shape[1])

    async def encode_query(
        self,
        queries: str | Sequence[str],
        *,
        task: str = "web_search_query",
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """See `Encoder.encode_query`, and `Client.encode_query` for what is raised."""
        options = Options(task, False, normalize, dimensions, truncate)
        return await self._encode("queries", queries, options)

    async def encode_document(
        self,
        documents: str | Sequence[str],
        *,
        task: str = "",
        symmetric: bool = False,
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """See `Encoder.encode_document`, and `Client.encode_document` for what is raised."""
        options = Options(task, symmetric, normalize, dimensions, truncate)
        return await self._encode("documents", documents, options)

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """See `Encoder.similarity`; computed here, so there is nothing to await."""
        return similarity(queries, documents)

    async def _encode(self, field: str, texts: str | Sequence[str], options: Options) -> Vectors:
        """Embed the texts of one side, in as many requests as they need."""
        checked, _ = check_texts(texts, field)
        batch = Batch(self._model, await self._identity(), field, checked, options)
        turns = asyncio.Semaphore(AT_A_TIME)
        filled = [asyncio.create_task(self._run(batch.fill(part), turns)) for part in batch.parts]
        try:
            for task in filled:  # in order, so that the first text that fails is named
                await task
        finally:
            for task in filled:
                task.cancel()
            await asyncio.gather(*filled, return_exceptions=True)
        return batch.vectors[0] if isinstance(texts, str) else batch.vectors

    async def _run(self, steps: Steps[None], turns: asyncio.Semaphore) -> None:
        async with turns, self._room:
            await self._remote.run(steps)

    async def _identity(self) -> RemoteAnswer:
        """The first answer, asked once for all calls that wait for it."""
        if self._model.first is not None:
            return self._model.first
        if self._asking is None:
            self._asking = asyncio.create_task(self._remote.run(self._model.identity()))
        asking = self._asking
        self._num_waiting += 1
        try:
            return await asyncio.shield(asking)
        finally:
            self._num_waiting -= 1
            if self._num_waiting == 0:
                self._asking = None
                asking.cancel()
                await asyncio.wait([asking])
