"""Any number of texts of one side -> requests to one service, and their vectors back in order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from e5.client.prediction import RemoteAnswer
from e5.errors import InputError, RequestTooLargeError, ServiceError, TextError, quoted
from e5.prompts import resolve_task
from e5.texts import check_flag, check_task
from e5.vectors import Vectors, check_dimensions

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

    def __init__(self, embed: Callable[[Mapping[str, object]], Awaitable[RemoteAnswer]]) -> None:
        """`embed` asks the service."""
        self.first: RemoteAnswer | None = None
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


async def embed_batch(
    model: OneModel,
    field: str,
    texts: Sequence[str],
    options: Options,
    *,
    slots: AbstractAsyncContextManager[Any],
    report: Callable[[int], object],
) -> Vectors:
    """The vectors of the texts of one call, float32 `[num_texts, dimensions]`.

    Args:
        model: answers the requests.
        field: `queries` or `documents`.
        texts: checked.
        options: for all of them.
        slots: held by each request while it is under way.
        report: receives the number of texts of each request once it is answered, in order.

    Raises:
        InputError: for an option that cannot be used.
        E5Error: for the first text that fails, in the numbering of the whole call. Nothing is sent
            any more, and what is under way is cancelled.
    """
    width = (await model.identify()).vectors.shape[1]
    check_dimensions(options.dimensions, width)
    inputs: dict[str, object] = {
        "task": check_task(options.task),
        "symmetric": check_flag(options.symmetric, "symmetric"),
        "normalize": check_flag(options.normalize, "normalize"),
        "truncate": check_flag(options.truncate, "truncate"),
        "encoding_format": "base64",
    }
    if options.dimensions is not None:  # where the service has a schema, it refuses null
        inputs["dimensions"] = width = int(options.dimensions)
    vectors = np.empty((len(texts), width), np.float32)
    own_slots = asyncio.Semaphore(REQUESTS_PER_CALL)

    async def fill(rows: slice) -> None:
        try:
            answer = await model.ask({**inputs, field: texts[rows]})
        except RequestTooLargeError:  # the service is set to accept fewer tokens in a request
            if rows.stop - rows.start == 1:
                raise
            middle = (rows.start + rows.stop) // 2
            await fill(slice(rows.start, middle))
            await fill(slice(middle, rows.stop))
            return
        except (InputError, TextError) as error:
            raise _renumbered(error, field, rows) from error
        if answer.vectors.shape != vectors[rows].shape:
            raise ServiceError(
                f"the service answered vectors of shape {answer.vectors.shape} instead of "
                f"{vectors[rows].shape}; check what stands between here and it."
            )
        vectors[rows] = answer.vectors

    async def embed(rows: slice) -> int:
        async with own_slots, slots:
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
    return vectors


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


def _renumbered(error: InputError | TextError, field: str, rows: slice) -> InputError | TextError:
    """The error of a request with these rows of the caller's texts, in the caller's numbering.

    Example:
        >>> error = InputError("queries[5]", "a text of 9 tokens", "shorten it")
        >>> str(_renumbered(error, "queries", slice(4096, 4352)))
        'queries[4101]: received a text of 9 tokens; shorten it.'
    """
    positions = {f"{field}[{i - rows.start}]": i for i in range(rows.start, rows.stop)}
    position = positions.get(error.field)
    if position is None:
        return error.renamed({})
    if isinstance(error, TextError):
        return error.at(position, f"{field}[{position}]")
    return error.renamed({error.field: f"{field}[{position}]"})
