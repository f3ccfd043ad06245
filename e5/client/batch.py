"""Any number of texts of one side -> requests to one service, and their vectors back in order.

Splits the texts, names them in the caller's numbering, and holds the service to one model.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from e5.client.prediction import RemoteAnswer
from e5.errors import (
    E5Error,
    InputError,
    RequestTooLargeError,
    ServiceError,
    TextError,
    quoted,
)
from e5.prompts import resolve_task
from e5.texts import check_flag, check_task
from e5.vectors import check_dimensions

# Of one request. 256 vectors of 4096 dimensions are 5.6 MB in base64; from 6 MiB on Cog puts an
# answer into a file. 50,000 characters are some 12,000 tokens, three full forwards on a GPU.
REQUEST_TEXTS = 256
REQUEST_CHARACTERS = 50_000
# Requests of one call at a time: while one is computed, one is tokenised, one answered and one on
# its way. Even at four tokens a character they fit into the service's queue of a million tokens.
REQUESTS_PER_CALL = 4


@dataclass(frozen=True)
class Options:
    """How a caller wants texts embedded: the arguments of `Encoder`, not checked yet."""

    task: str
    symmetric: bool
    normalize: bool
    dimensions: int | None
    truncate: bool


class OneModel:
    """Asks a service, and accepts only answers of the model that gave the first one.

    Attributes:
        first: the first answer, with a whole vector; None before it.
    """

    def __init__(
        self,
        embed: Callable[[Mapping[str, object]], Awaitable[RemoteAnswer]],
        first: RemoteAnswer | None = None,
    ) -> None:
        """`embed` asks the service; `first` is its first answer, if that is known."""
        self.first = first
        self._embed = embed

    async def identify(self) -> RemoteAnswer:
        """The first answer: the name of the model, and a whole vector."""
        return self.first or await self.ask({"documents": ["a"], "encoding_format": "base64"})

    async def ask(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """The answer to one request.

        Raises:
            ServiceError: another model than that of the first answer gave it.
        """
        answer = await self._embed(inputs)
        first = self.first = self.first or answer
        if answer.model != first.model:
            raise ServiceError(
                f"the service changed its model in between, from {quoted(first.model)} to "
                f"{quoted(answer.model)}; embed everything again with a new client, because "
                "vectors of both cannot be compared."
            )
        return answer


class Batch:
    """The texts of one call.

    Attributes:
        slices: the rows of each request, in order.
        vectors: float32 `[num_texts, dimensions]`; not set before `embed` has ended.
    """

    def __init__(
        self,
        model: OneModel,
        first: RemoteAnswer,
        field: str,
        texts: Sequence[str],
        options: Options,
    ) -> None:
        """Split the texts into requests.

        Args:
            model: answers them.
            first: its first answer.
            field: `queries` or `documents`.
            texts: checked.
            options: for all of them.

        Raises:
            InputError: for an option that cannot be used.
        """
        width = first.vectors.shape[1]
        check_dimensions(options.dimensions, width)
        self._model, self._field, self._texts = model, field, texts
        self._inputs: dict[str, object] = {
            "task": check_task(options.task),
            "symmetric": check_flag(options.symmetric, "symmetric"),
            "normalize": check_flag(options.normalize, "normalize"),
            "truncate": check_flag(options.truncate, "truncate"),
            "encoding_format": "base64",
        }
        if options.dimensions is not None:  # where the service has a schema, it refuses null
            self._inputs["dimensions"] = width = int(options.dimensions)
        self.vectors = np.empty((len(texts), width), np.float32)
        # The service counts the task with each query; here with documents too, which does no harm.
        task_characters = len(resolve_task(options.task).instruction)
        self.slices = list(split([task_characters + len(text) for text in texts]))

    async def embed(
        self, slots: AbstractAsyncContextManager[Any], report: Callable[[int], object]
    ) -> None:
        """Compute `vectors`, with a few requests at a time.

        Args:
            slots: held by each request while it is under way.
            report: receives the number of texts of each request once it is answered, in order.

        Raises:
            E5Error: for the first text that fails, in the numbering of the whole batch. Nothing is
                sent any more, and what is under way is cancelled.
        """
        turns = asyncio.Semaphore(REQUESTS_PER_CALL)

        async def run(rows: slice) -> None:
            async with turns, slots:
                await self._fill(rows)

        tasks = [asyncio.create_task(run(rows)) for rows in self.slices]
        try:
            for task, rows in zip(tasks, self.slices, strict=True):
                await task
                report(rows.stop - rows.start)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self, rows: slice) -> None:
        """Compute these rows of `vectors`."""
        try:
            answer = await self._model.ask({**self._inputs, self._field: self._texts[rows]})
        except RequestTooLargeError:  # the service is set to accept fewer tokens in a request
            if rows.stop - rows.start == 1:
                raise
            middle = (rows.start + rows.stop) // 2
            await self._fill(slice(rows.start, middle))
            await self._fill(slice(middle, rows.stop))
            return
        except (InputError, TextError) as error:
            raise _renumbered(error, self._field, rows) from error
        if answer.vectors.shape != self.vectors[rows].shape:
            raise ServiceError(
                f"the service answered vectors of shape {answer.vectors.shape} instead of "
                f"{self.vectors[rows].shape}; check what stands between here and it."
            )
        self.vectors[rows] = answer.vectors


def split(lengths: Sequence[int]) -> Iterator[slice]:
    """Consecutive texts, as many as one request may hold; at least one.

    Args:
        lengths: characters of each text, with its task.

    Example:
        >>> list(split([30_000, 20_000, 1, 60_000]))
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    start = characters = 0
    for position, length in enumerate(lengths):
        characters += length
        is_full = position - start == REQUEST_TEXTS or characters > REQUEST_CHARACTERS
        if is_full and position > start:
            yield slice(start, position)
            start, characters = position, length
    if lengths:
        yield slice(start, len(lengths))


def _renumbered(error: InputError | TextError, field: str, rows: slice) -> E5Error:
    """The error of a request with these rows of the caller's texts, in the caller's numbering.

    Example:
        >>> error = InputError("queries[5]", "a text of 9 tokens", "shorten it")
        >>> str(_renumbered(error, "queries", slice(4096, 4352)))
        'queries[4101]: received a text of 9 tokens; shorten it.'
    """
    positions = {f"{field}[{i - rows.start}]": i for i in range(rows.start, rows.stop)}
    position = positions.get(error.field)
    if position is None:
        return error
    if isinstance(error, TextError):
        return error.at(position, f"{field}[{position}]")
    return error.renamed({error.field: f"{field}[{position}]"})
