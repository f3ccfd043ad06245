"""A file's bytes -> a stream of UTF-8 that can be read from any offset, however it is written.

gzip and Zstandard are unpacked, other encodings are decoded strictly: no character becomes another
one. Offsets are those of the decoded stream.
"""

import codecs
import io
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pyarrow as pa

from e5.texts import BYTE_ORDER_MARKS

BUFFER_BYTES = 2**22  # of one read; on remote storage each read is a request
CHUNK_BYTES = 2**18


class FormatError(OSError):
    """A file whose content is not in the format or encoding that it is read in.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, reason: str, remedy: str = "repair it and run again") -> None:
        super().__init__(reason)
        self.remedy = remedy


def open_stream(
    open_file: Callable[[], Any], name: str, encoding: str
) -> tuple[io.BufferedReader, bool]:
    """A stream of UTF-8, and whether seeking to an offset costs nothing.

    The ending of `name` tells whether the file is compressed. A file that begins with the
    byte-order mark of another encoding is a FormatError.
    """
    compression = {".gz": "gzip", ".zst": "zstd"}.get(name[name.rfind(".") :].lower())
    is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")

    def open_bytes() -> Any:  # anew each time: an unpacking stream closes what it reads
        file = open_file()
        return pa.CompressedInputStream(file, compression) if compression else file

    def chunks() -> Generator[bytes, None, None]:
        with open_bytes() as source:
            read = iter(lambda: source.read(CHUNK_BYTES), b"")
            try:
                yield from read if is_utf8 else map(str.encode, codecs.iterdecode(read, encoding))
            except UnicodeError as error:
                reason = f"it is not in the encoding that it is read in ({error})"
                remedy = "name its encoding by --encoding, or save it as UTF-8"
                raise FormatError(reason, remedy) from error

    with open_bytes() as source:
        _check_mark(source.read(4), encoding, is_utf8=is_utf8)
    if compression is None and is_utf8:
        return io.BufferedReader(open_file(), BUFFER_BYTES), True
    return io.BufferedReader(_ChunkStream(chunks), BUFFER_BYTES), False


def lines(opened: io.BufferedReader, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The size of each line with its end, and the line; None for one of more than `max_bytes`."""
    while line := opened.readline(max_bytes):
        size, end = len(line), line[-1:]
        while size >= max_bytes and end != b"\n" and (rest := opened.readline(max_bytes)):
            size, end = size + len(rest), rest[-1:]
        yield size, line if size == len(line) else None


def _check_mark(start: bytes, encoding: str, *, is_utf8: bool) -> None:
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    wanted = codecs.lookup(encoding).name
    if marked is None or wanted.startswith(marked) or (is_utf8 and marked == "utf-8"):
        return
    raise FormatError(
        f"it begins with the byte-order mark of {marked}, and is read as {encoding}",
        f"read it with --encoding {marked}, or save it as {encoding}",
    )


class _ChunkStream(io.RawIOBase):
    """A stream of chunks, which is read from its start on; to go back, it begins again."""

    def __init__(self, chunks: Callable[[], Generator[bytes, None, None]]) -> None:
        self._begin = chunks
        self._restart()

    def _restart(self) -> None:
        self._chunks, self._ready, self._offset = self._begin(), b"", 0

    def close(self) -> None:
        self._chunks.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        if offset < self._offset:
            self._chunks.close()
            self._restart()
        skipped = memoryview(bytearray(CHUNK_BYTES))
        while self._offset < offset and self.readinto(skipped[: offset - self._offset]):
            pass
        return self._offset

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._ready = chunk
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        self._offset += count
        return count
