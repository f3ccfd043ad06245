"""A file's bytes -> a stream of UTF-8 that can be read from any offset, however it is written.

gzip and Zstandard are unpacked, other encodings are decoded strictly: no character becomes another
one. Offsets are those of the decoded stream. Knows nothing of rows.
"""

import codecs
import io
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

BUFFER = 2**22  # bytes of one read; on remote storage each read is a request
PIECE = 2**18
LONGEST_LINE = 2**26  # bytes; a longer one is no row, and may not fit in memory
MARKS = {  # UTF-32's first: it begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8",
}


class FormatError(OSError):
    """A file that is not what it is read as."""


def open_stream(
    open_file: Callable[[], Any], name: str, encoding: str
) -> tuple[io.BufferedReader, bool]:
    """A stream of UTF-8, and whether going to an offset costs nothing.

    Args:
        open_file: opens the file by pyarrow.
        name: the file's name; its ending tells whether it is compressed.
        encoding: of the text.

    Raises:
        FormatError: if its byte-order mark is that of another encoding.
    """
    packed = {".gz": "gzip", ".zst": "zstd"}.get(name[name.rfind(".") :].lower())
    is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")

    def begin() -> Any:  # anew each time: an unpacking stream closes what it reads
        return pa.CompressedInputStream(open_file(), packed) if packed else open_file()

    with begin() as source:
        _check_mark(source.read(4), encoding, is_utf8=is_utf8)
    if packed is None and is_utf8:
        return io.BufferedReader(open_file(), BUFFER), True
    decoder = None if is_utf8 else codecs.getincrementaldecoder(encoding)
    return io.BufferedReader(_FromTheStart(begin, decoder), BUFFER), False


def lines(opened: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """The size of each line with its end, and the line; None for one that is too long to read."""
    while line := opened.readline(LONGEST_LINE):
        size, end = len(line), line[-1:]
        while size >= LONGEST_LINE and end != b"\n" and (rest := opened.readline(LONGEST_LINE)):
            size, end = size + len(rest), rest[-1:]
        yield size, line if size == len(line) else None


def _check_mark(start: bytes, encoding: str, *, is_utf8: bool) -> None:
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
    asked = codecs.lookup(encoding).name
    if marked is None or asked.startswith(marked) or (is_utf8 and marked == "utf-8"):
        return
    raise FormatError(
        f"it begins with the byte-order mark of {marked}, and is read as {encoding}; "
        f"say --encoding {marked}"
    )


class _FromTheStart(io.RawIOBase):
    """A stream that can only be read on; to go back, it begins again."""

    def __init__(
        self, begin: Callable[[], Any], decoder: Callable[[], codecs.IncrementalDecoder] | None
    ) -> None:
        self._begin, self._new_decoder = begin, decoder
        self._source: Any = None
        self._restart()

    def close(self) -> None:
        if not self.closed and self._source is not None:
            self._source.close()
        super().close()

    def _restart(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = self._begin()
        self._decoder = self._new_decoder() if self._new_decoder else None
        self._ready = b""  # decoded and not yet given out
        self._at = 0
        self._has_ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        if offset < self._at:
            self._restart()
        piece = bytearray(PIECE)
        while self._at < offset:
            if not self.readinto(memoryview(piece)[: offset - self._at]):
                break
        return self._at

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._has_ended:
            self._ready = self._decoded(self._source.read(PIECE))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        self._at += count
        return count

    def _decoded(self, piece: bytes) -> bytes:
        self._has_ended = not piece
        if self._decoder is None:
            return piece
        try:
            return self._decoder.decode(piece, final=not piece).encode()
        except UnicodeError as error:
            raise FormatError(f"it is not what it is read as: {error}") from error
