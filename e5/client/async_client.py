"""`AsyncClient`: texts -> the vectors of a running service, for an event loop.

The client only checks and sends texts; the service builds the prompts and computes.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

import numpy as np

from e5.client.batch import Options, renumbered, split
from e5.client.prediction import RemoteAnswer
from e5.client.remote import DEADLINE_SECONDS, RemoteService
from e5.errors import InputError, RequestTooLargeError, ServiceError, TextError, quoted
from e5.prompts import resolve_task
from e5.texts import check_texts
from e5.vectors import Vectors, similarity

# Requests of one call at a time: one is computed, one tokenised, one answered and one on its way.
# Even at four tokens a character they fit into the service's queue of a million tokens.
REQUESTS_PER_CALL = 4
# Requests of one client, however many calls wait: an eighth of Cog's slots; an answer takes 6 MB.
REQUESTS_PER_CLIENT = 32


class AsyncClient:
    """The same vectors as from `Client`, awaited. To be used within one event loop.

    Any number of calls may wait at a time; a limited number of requests is under way. Cancelling a
    call cancels its requests: Cog and Replicate stop computing what nobody waits for.

    Example, with a server of the built-in checkpoint on this port:
        >>> async def shape() -> tuple[int, ...]:
        ...     async with AsyncClient("http://127.0.0.1:5000") as client:
        ...         return (await client.encode_query(["how much protein"])).shape
        >>> asyncio.run(shape())
        (1, 192)
    """

    def __init__(
        self, url: str, *, deadline: float = DEADLINE_SECONDS, api_key: str | None = None
    ) -> None:
        self._remote = RemoteService(url, deadline=deadline, api_key=api_key)
        self._permits = asyncio.Semaphore(REQUESTS_PER_CLIENT)
        # Known from the first answer: the model, and the dimensions of a whole vector.
        self._model: str | None = None
        self._width: int | None = None
        self._identifying: asyncio.Task[RemoteAnswer] | None = None
        self._num_waiting = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        await self._remote.aclose()

    async def name(self) -> str:
        """See `Client.name`; a method, because the service may have to be asked."""
        return (await self._identify()).model if self._model is None else self._model

    async def dimensions(self) -> int:
        """See `Client.dimensions`."""
        if self._width is None:
            return int((await self._identify()).vectors.shape[1])
        return self._width

    async def encode_query(
        self,
        queries: str | Sequence[str],
        *,
        task: str = "web_search_query",
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """See `Encoder.encode_query`, and `Client` for what else is raised."""
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
        """See `Encoder.encode_document`, and `Client` for what else is raised."""
        options = Options(task, symmetric, normalize, dimensions, truncate)
        return await self._encode("documents", documents, options)

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """See `Encoder.similarity`; computed here, so there is nothing to await."""
        return similarity(queries, documents)

    async def _encode(self, field: str, texts: str | Sequence[str], options: Options) -> Vectors:
        checked, _ = check_texts(texts, field)
        vectors = await self._embed(field, checked, options, self._permits, lambda _: None)
        return vectors[0] if isinstance(texts, str) else vectors

    async def _embed(
        self,
        field: str,
        texts: Sequence[str],
        options: Options,
        permits: AbstractAsyncContextManager[Any],
        report: Callable[[int], object],
    ) -> Vectors:
        """The vectors of texts that were checked, float32 `[num_texts, dimensions]`.

        Each request holds `permits` while it is under way. `report` receives the number of texts of
        each request once it is answered, in order. The error of the first text that fails is
        raised; then nothing is sent any more, and what is under way is cancelled.
        """
        inputs = options.to_inputs(self._width)
        if not texts:
            return np.empty((0, options.dimensions or await self.dimensions()), np.float32)
        vectors: Vectors | None = None
        own_permits = asyncio.Semaphore(REQUESTS_PER_CALL)

        async def fill(rows: slice) -> None:
            nonlocal vectors
            try:
                answer = await self._ask({**inputs, field: texts[rows]})
            except RequestTooLargeError:  # the service is set to accept fewer tokens in a request
                if rows.stop - rows.start == 1:
                    raise
                middle = (rows.start + rows.stop) // 2
                await fill(slice(rows.start, middle))
                await fill(slice(middle, rows.stop))
                return
            except (InputError, TextError) as error:
                raise renumbered(error, field, rows) from error
            if vectors is None:
                width = options.dimensions or await self.dimensions()  # known from the answer
                vectors = np.empty((len(texts), width), np.float32)
            if answer.vectors.shape != vectors[rows].shape:
                raise ServiceError(
                    f"the service answered vectors of shape {answer.vectors.shape} instead of "
                    f"{vectors[rows].shape}; check what stands between here and it."
                )
            vectors[rows] = answer.vectors

        async def embed(rows: slice) -> int:
            if rows.start and self._model is None:
                await tasks[0]  # a client's first request goes alone: all would fail as it does
            async with own_permits, permits:
                await fill(rows)
            return int(rows.stop - rows.start)

        # The service counts the task with each query; here with documents too, which does no harm.
        task_characters = len(resolve_task(options.task).instruction)
        requests = split([task_characters + len(text) for text in texts])
        tasks = [asyncio.create_task(embed(rows)) for rows in requests]
        try:
            for task in tasks:
                report(await task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert vectors is not None
        return vectors

    async def _ask(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """The answer to one request, if it comes from the same model as the first one."""
        answer = await self._remote.embed(inputs)
        if self._model is None:
            self._model = answer.model
        if answer.model != self._model:
            raise ServiceError(
                f"the service changed its model in between, from {quoted(self._model)} to "
                f"{quoted(answer.model)}; embed everything again with a new client, because "
                "vectors of both cannot be compared."
            )
        if self._width is None and "dimensions" not in inputs:
            self._width = int(answer.vectors.shape[1])
        return answer

    async def _identify(self) -> RemoteAnswer:
        """The answer to a request of one text, sent once for all calls that wait for it."""
        if self._identifying is None:
            question = self._ask({"documents": ["a"], "encoding_format": "base64"})
            self._identifying = asyncio.create_task(question)
        identifying = self._identifying
        self._num_waiting += 1
        try:
            return await asyncio.shield(identifying)
        finally:
            self._num_waiting -= 1
            if self._num_waiting == 0:
                self._identifying = None
                identifying.cancel()
                await asyncio.wait([identifying])
