"""What the subcommands share: their parser, their errors, and how they read values."""

import re
import signal
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import e5
from e5.errors import E5Error, InputError
from e5.texts import BYTE_ORDER_MARKS

LINE_END = re.compile(r"\r\n|\r|\n")  # `str.splitlines` splits at characters of a text as well

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


def print_output(text: str) -> None:
    """Print a result; end quietly where its reader has ended, as in `... | head`."""
    previous = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(text, flush=True)
    signal.signal(signal.SIGPIPE, previous)


def read_lines(file: Path, option: str, item: str) -> dict[int, str]:
    """The lines of a text file that are not blank, by their numbers from 1 on; at least one.

    Lines end at a line feed, a carriage return or both, and at nothing else. The file and the
    errors are those of `read_text`.

    Args:
        file: the file.
        option: what names the file.
        item: what a line is, such as `key`.
    """
    text = read_text(file, option)
    # Files that were put together may each begin with a byte-order mark.
    lines = (line.removeprefix("\ufeff") for line in LINE_END.split(text))
    if not (found := {i: line for i, line in enumerate(lines, 1) if line.strip()}):
        raise InputError(option, f"{file}, which holds no {item}", f"write one {item} a line")
    return found


def read_text(file: Path, option: str) -> str:
    """The text in a file; `-` is the standard input.

    It is UTF-8, or what a byte-order mark says, which is no part of the text.

    Raises:
        InputError: about `option`, which names the file, if it cannot be read as text.
    """
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        received = f"{file}, which cannot be read ({error.strerror})"
        raise InputError(option, received, "name a text file") from error
    marked = (name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark))
    encoding = next(marked, "utf-8")
    try:
        text = content.decode(encoding)
        before = text[: text.index("\0")] if "\0" in text else None  # as UTF-16 has without a mark
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding)
    if before is not None:
        line = 1 + len(LINE_END.findall(before))
        received = f"{file}, of which line {line} is not {encoding.upper()} text"
        raise InputError(option, received, "save it as UTF-8")
    return text.removeprefix("\ufeff")
