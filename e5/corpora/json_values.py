"""JSON -> Python values, each as it is written or an `Unkept`; arrays of any size as a stream.

Python's decoder refuses a whole text for one whole number of more than 4,300 digits, and makes
infinity of a number that no double holds. Here that number alone becomes an `Unkept`.
"""

import math
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any, BinaryIO

from e5.corpora.documents import Unkept
from e5.corpora.streams import FormatError

BLANKS = re.compile(r"[ \t\r\n]*")
INFINITIES = (math.inf, -math.inf)
READ_BYTES = 2**20  # at least so many are read at a time


def decode(text: str, begin: int = 0) -> tuple[Any, int]:
    """The value that begins at an index, and the index at which it ends.

    Raises:
        ValueError: where no whole value begins.
        RecursionError: for a value that is nested some thousand times.
    """
    try:
        value, end = _FAST.raw_decode(text, begin)
        values = value.values() if isinstance(value, dict) else ()
        if not any(infinity in values for infinity in INFINITIES):
            return value, end
    except JSONDecodeError:
        raise
    except ValueError:  # for its many digits
        pass
    return _EXACT.raw_decode(text, begin)


def elements(stream: BinaryIO, max_bytes: int) -> Iterator[Any]:
    """The elements of the array that a stream of UTF-8 holds; none if it is blank.

    Bytes that are not UTF-8 become lone surrogates.

    Raises:
        FormatError: for anything but an array, and for an element of more than `max_bytes`.
    """
    text = _Text(stream, max_bytes)
    if not (first := text.next()):
        return
    if first != "[":
        remedy = "write an array of objects; if each line is an object, name the file .jsonl"
        raise FormatError("it holds no JSON array", remedy)
    text.skip()
    if text.next() != "]":
        yield text.value()
    while text.next() == ",":
        text.skip()
        yield text.value()
    if text.next() != "]":
        raise text.error("a comma or the array's end is missing")
    text.skip()
    if text.next():
        raise text.error("something comes after the array")


class _Text:
    """The part of a text that is not yet read, as far as it is needed."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self._decoder = getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._begin, self._count = "", 0, 0

    def next(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            blanks = BLANKS.match(self._text, self._begin)
            assert blanks is not None  # because none are enough
            self._begin = blanks.end()
            if self._begin < len(self._text) or not self._read():
                return self._text[self._begin : self._begin + 1]

    def skip(self) -> None:
        """Go on behind the next character."""
        self._begin += 1

    def value(self) -> Any:
        """The value that comes next."""
        self.next()
        while True:
            try:
                value, end = decode(self._text, self._begin)
                # At the end of what is read, digits may be missing.
                is_whole = self._text[end : end + 1] in tuple(", \t\r\n]")
            except RecursionError as error:
                raise self.error("lists or objects are nested too deep") from error
            except JSONDecodeError as error:
                if not self._read():
                    raise self.error(error.msg) from error
                continue
            if is_whole or not self._read():
                self._begin, self._count = end, self._count + 1
                return value

    def error(self, reason: str) -> FormatError:
        """The error for what cannot be read."""
        return FormatError(f"it is not JSON after {self._count} elements ({reason})")

    def _read(self) -> bool:
        """Read more, if there is more."""
        rest = len(self._text) - self._begin
        if rest > self._max_bytes:
            raise self.error(f"an element of more than {self._max_bytes} bytes")
        chunk = self._stream.read(max(READ_BYTES, rest))
        if more := self._decoder.decode(chunk, final=not chunk):
            self._text, self._begin = self._text[self._begin :] + more, 0
        return bool(more or chunk)


def _whole_number(digits: str) -> int | Unkept:
    try:
        return int(digits)
    except ValueError:
        return Unkept(f"a whole number of {len(digits)} digits")


def _number(digits: str) -> float | Unkept:
    number = float(digits)
    return Unkept("a number that no double holds") if number in INFINITIES else number


_FAST = JSONDecoder()
_EXACT = JSONDecoder(parse_int=_whole_number, parse_float=_number)
