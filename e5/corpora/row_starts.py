"""Where rows of a long text file begin behind some offsets, without parsing what is before."""

import io
import re
from collections.abc import Iterator, Sequence

_CHUNK_BYTES = 2**20
WINDOW_BYTES = 2**16  # of a row that are looked at first


def line_starts(opened: io.BufferedReader, offsets: Sequence[int], max_bytes: int) -> list[int]:
    """The offset behind the next line end after each offset, each once; 0 for 0."""
    found = dict[int, None]()
    for offset in offsets:
        opened.seek(offset)
        line = opened.readline(max_bytes) if offset else b"\n"
        if line.endswith(b"\n") and opened.peek(1):
            found[offset + len(line) if offset else 0] = None
    return list(found)


def csv_row_starts(
    opened: io.BufferedReader,
    offsets: Sequence[int],
    *,
    width: int,
    delimiter: str,
    max_bytes: int,
) -> list[int] | None:
    """The offset of the next row after each of ascending offsets, each once.

    An offset lies inside quotes if the number of quotes before it is odd. So quotes must stand only
    around whole values, and twice inside of them.

    Args:
        opened: a CSV file in UTF-8.
        offsets: behind the file's head.
        width: the number of columns.
        delimiter: between the values of a row.
        max_bytes: of a row.

    Returns:
        None if one of the rows is written otherwise, or is too long.
    """
    comma = re.escape(delimiter.encode())
    value = rb'(?:"(?:[^"]++|"")*+"|[^"\r\n' + comma + rb"]*+)"
    row = re.compile(rb"%b(?:%b%b){%d}(?:\r?\n|\Z)" % (value, comma, value, width - 1))
    found = dict[int, None]()
    for offset, is_quoted in zip(offsets, list(_quoted(opened, offsets)), strict=True):
        rest = re.compile((rb'[^"]*+"' if is_quoted else b"") + rb'(?:[^"\n]++|"[^"]*+")*+\n')
        end = _end(opened, offset, rest, max_bytes)
        if end is None:
            return None
        opened.seek(end)
        if not opened.peek(1):
            continue  # behind the last row
        if _end(opened, end, row, max_bytes) is None:
            return None
        found[end] = None
    return list(found)


def _quoted(opened: io.BufferedReader, offsets: Sequence[int]) -> Iterator[bool]:
    """Whether each of ascending offsets has an odd number of quotes before it."""
    opened.seek(0)
    begin, quotes, chunk = 0, 0, opened.read(_CHUNK_BYTES)
    for offset in offsets:
        while chunk and offset >= begin + len(chunk):
            begin, quotes = begin + len(chunk), quotes + chunk.count(b'"')
            chunk = opened.read(_CHUNK_BYTES)
        yield (quotes + chunk.count(b'"', 0, offset - begin)) % 2 == 1


def _end(
    opened: io.BufferedReader, offset: int, pattern: re.Pattern[bytes], max_bytes: int
) -> int | None:
    """Where a match that begins at an offset ends; None if there is none."""
    size = WINDOW_BYTES
    while True:
        opened.seek(offset)
        window = opened.read(size)
        is_all, match = len(window) < size, pattern.match(window)
        if match and (is_all or match[0].endswith(b"\n")):
            return offset + match.end()
        if is_all or size > max_bytes:
            return None
        size *= 4
