"""What the subcommands share: their parser, their errors, and how they read values."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import e5
from e5.errors import E5Error, InputError

# The project's folder in a clone, else the folder that pip installed into. It holds predict.py.
HOME = Path(e5.__file__).parents[1]


def command_parser(command: str, description: str | None) -> ArgumentParser:
    """A parser of a subcommand's options, which may not be abbreviated."""
    return ArgumentParser(
        prog=f"e5 {command}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


@contextmanager
def caller_errors(names: Mapping[str, str], *others: type[Exception]) -> Iterator[None]:
    """In this context, errors name the caller's options, and `others` become an `E5Error`.

    Args:
        names: the command line's names of this package's fields.
        others: errors that the caller can cause, besides `E5Error` and `OSError`.
    """
    try:
        yield
    except E5Error as error:
        raise error.renamed(names) from error
    except others as error:
        raise E5Error(str(error)) from error


def absolute(location: str) -> str:
    """A path from the root on, so that every process reads the same; a URI as it is.

    Example:
        >>> absolute("s3://bucket/documents")
        's3://bucket/documents'
    """
    return location if "://" in location else str(Path(location).absolute())


def read_lines(file: Path, option: str, item: str) -> list[str]:
    """The lines of a text file that are not blank, each an `item` such as `key`; at least one.

    Raises:
        InputError: about `option`, if there is no such line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        received = f"{file}, which cannot be read as UTF-8 ({type(error).__name__})"
        raise InputError(option, received, f"name a text file with one {item} a line") from error
    if not (found := [line for line in lines if line.strip()]):
        raise InputError(option, f"{file}, which holds no {item}", f"write one {item} a line")
    return found
