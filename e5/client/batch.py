"""A call with any number of texts -> the inputs of its requests; errors in the call's numbering."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from e5.errors import InputError, TextError
from e5.texts import check_flag, check_task
from e5.vectors import check_dimensions

# Of one request. 256 vectors of 4096 dimensions are 5.6 MB in base64; from 6 MiB on Cog puts an
# answer into a file. 50,000 characters are some 12,000 tokens, three full forwards on a card.
REQUEST_TEXTS = 256
REQUEST_CHARACTERS = 50_000


class Options(NamedTuple):
    """How a caller wants texts embedded: the arguments of `Encoder`, not checked yet."""

    task: str
    symmetric: bool
    normalize: bool
    dimensions: int | None
    truncate: bool

    def to_inputs(self, width: int | None) -> dict[str, object]:
        """The service's inputs; InputError for a bad option.

        `width` is the number of dimensions of a whole vector, or None where it is not known yet.
        """
        check_dimensions(self.dimensions, width)
        inputs: dict[str, object] = {"task": check_task(self.task), "encoding_format": "base64"}
        for name in ("symmetric", "normalize", "truncate"):
            inputs[name] = check_flag(getattr(self, name), name)
        if self.dimensions is not None:  # where the service has a schema, it refuses null
            inputs["dimensions"] = int(self.dimensions)
        return inputs


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


def renumbered(error: InputError | TextError, field: str, rows: slice) -> InputError | TextError:
    """The error of a request with these rows of the caller's texts, in the caller's numbering."""
    names = {f"{field}[{i - rows.start}]": f"{field}[{i}]" for i in range(rows.start, rows.stop)}
    if isinstance(error, TextError) and error.field in names:
        return error.at(rows.start + list(names).index(error.field), names[error.field])
    return error.renamed(names)
