"""What commands share: errors and places in the words of a command line, and plain output.

The package says `text_columns` of what a command calls `--text-column`. Knows nothing of what a
command does.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from e5.errors import InputError


@contextmanager
def as_options(options: Mapping[str, str]) -> Iterator[None]:
    """Within, an error about an argument of the package names the command's option instead.

    Args:
        options: of each argument's name, the option's.
    """
    try:
        yield
    except InputError as error:
        name = options.get(error.field, error.field)
        raise InputError(name, error.received, error.remedy) from error


def absolute(location: str) -> str:
    """A path from the root on, whoever reads it where; a URI as it is.

    Example:
        >>> absolute("s3://bucket/documents")
        's3://bucket/documents'
    """
    return location if "://" in location else str(Path(location).absolute())


def plain(text: str) -> str:
    r"""One line that cannot move a terminal's cursor, whatever a corpus holds.

    Example:
        >>> plain("a\x1b[2Jb\n c")
        'a [2Jb c'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
