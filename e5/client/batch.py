"""Any number of texts of one side -> requests to one service, and their vectors back in order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import numpy as np

from e5.client.prediction import RemoteAnswer
from e5.errors import InputError, RequestTooLargeError, ServiceError, TextError
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


class Options(NamedTuple):
    """How a caller wants texts embedded: the arguments of `Encoder`, not checked yet."""

    task: str
    symmetric: bool
    normalize: bool
    dimensions: int | None
    truncate: bool

    def to_inputs(self, width: int) -> dict[str, object]:
        """The service's inputs, for vectors of `width` dimensions; InputError for a bad option."""
        check_dimensions(self.dimensions, width)
        inputs: dict[str, object] = {"task": check_task(self.task), "encoding_format": "base64"}
        for name in ("symmetric", "normalize", "truncate"):
            inputs[name] = check_flag(getattr(self, name), name)
        if self.dimensions is not None:  # where the service has a schema, it refuses null
            inputs["dimensions"] = int(self.dimensions)
        return inputs


async def embed_batch(
    ask: Callable[[Mapping[str, object]], Awaitable[RemoteAnswer]],
    field: str,
    texts: Sequence[str],
    options: Options,
    *,
    width: int,
    slots: AbstractAsyncContextManager[Any],
    report: Callable[[int], object],
) -> Vectors:
    """The vectors of the texts of one call, float32 `[num_texts, dimensions]`.

    Args:
        ask: answers one request.
        field: `queries` or `documents`.
        texts: checked.
        options: for all of them.
        width: dimensions of a whole vector.
        slots: held by each request while it is under way.
        report: receives the number of texts of each request once it is answered, in order.

    Raises:
        InputError: for an option that cannot be used.
        E5Error: for the first text that fails, in the numbering of the whole call. Nothing is sent
            any more, and what is under way is cancelled.
    """
    inputs = options.to_inputs(width)
    vectors = np.empty((len(texts), options.dimensions or width), np.float32)
    own_slots = asyncio.Semaphore(REQUESTS_PER_CALL)

    async def fill(rows: slice) -> None:
        try:
            answer = await ask({**inputs, field: texts[rows]})
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
    """Consecutive texts of these numbers of characters, as many as one request may hold.

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
    """The error of a request with these rows of the caller's texts, in the caller's numbering."""
    names = {f"{field}[{i - rows.start}]": f"{field}[{i}]" for i in range(rows.start, rows.stop)}
    if isinstance(error, TextError) and error.field in names:
        return error.at(rows.start + list(names).index(error.field), names[error.field])
    return error.renamed(names)
