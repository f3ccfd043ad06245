"""A corpus: files of any size, anywhere that pyarrow or fsspec can read -> documents, as a stream.

Reading can begin at the position of any row, and gives the same documents from wherever it begins.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from pyarrow import fs

from e5.corpora.documents import Columns, DeadLetter, Document
from e5.corpora.filesystem import open_filesystem, reading
from e5.corpora.formats import FORMATS, START, Reader, ReadPosition, TextFormat, open_reader
from e5.errors import InputError

logger = logging.getLogger(__name__)

HASHED_BYTES = 2**16  # of a file's start, and of its end, that are hashed to detect a change


class ReadRow(NamedTuple):
    """A row that is no blank line, and the position at which it begins."""

    position: ReadPosition
    item: Document | DeadLetter


@dataclass(frozen=True)
class Corpus:
    """Where documents are and which columns hold them.

    Attributes:
        location: a file or a folder; a path or a URI.
        text_columns: joined with a space, as the model's authors join title and text.
        id_column: None makes ids from row numbers: `file:row`.
        keep: the kept columns, which are copied into the shards and the index.
        text_format: how CSV, TSV and JSON are written.
    """

    location: str
    text_columns: tuple[str, ...] = ("text",)
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    text_format: TextFormat = field(default_factory=TextFormat)

    def __post_init__(self) -> None:
        """Refuse names that no column can have."""
        _ = self.columns

    @property
    def columns(self) -> Columns:
        """What is read from each row."""
        return Columns(self.text_columns, self.id_column, self.keep)

    def files(self) -> dict[str, str]:
        """Identities of the files, by path below `location`, in order; none for an empty folder.

        An identity is the size in bytes, the time of the last change, and a digest of the file's
        start and end. Files of other formats are left out, with a warning; hidden ones are too. A
        link has its own path; a file that several paths lead to is listed once.

        Raises:
            InputError: if the location cannot be listed, or has only files of other formats.
        """
        filesystem, path = open_filesystem(self.location)
        try:
            info = filesystem.get_file_info(path)
            is_folder = info.type == fs.FileType.Directory
            found = {info.base_name: info} if info.type == fs.FileType.File else {}
            if is_folder:
                listed = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
                found = {
                    item.path.removeprefix(f"{path}/"): item
                    for item in listed
                    if item.type == fs.FileType.File
                }
            if isinstance(filesystem, fs.LocalFileSystem):
                shortest_last = sorted(found, key=lambda name: (-len(name), name))
                names = {os.path.realpath(found[name].path): name for name in shortest_last}
                found = {name: found[name] for name in names.values()}
        except Exception as error:  # each kind of storage raises its own
            received = f"{self.location}, which cannot be listed ({error})"
            raise InputError("corpus", received, "give a file or folder in reach") from error
        if info.type == fs.FileType.NotFound:
            raise InputError("corpus", self.location, "give a file or folder that exists")
        if is_folder:
            hidden = [name for name in found if any(part[0] in "._" for part in name.split("/"))]
            for name in hidden:
                del found[name]
            if hidden:
                logger.info("%d files are hidden by their names and left out", len(hidden))
        known = sorted(name for name in found if name.lower().endswith(FORMATS))
        others = sorted(found.keys() - set(known))
        if others and not known:
            received = f"{self.location}, without a file of a known format"
            raise InputError("corpus", received, f"give files that end in {', '.join(FORMATS)}")
        if others:
            logger.warning("%d files of other formats are left out: %s", len(others), others[:5])
        with ThreadPoolExecutor() as pool:
            identities = pool.map(lambda name: _identity(filesystem, found[name]), known)
            return dict(zip(known, identities, strict=True))

    def check(self, reader: Reader, file: str) -> None:
        """Refuse a file that lacks a column, has it twice, or cannot hold text in it."""
        columns, other_kinds = reader.columns(), reader.other_kinds()
        wanted = [("text_columns", column) for column in self.text_columns]
        if self.id_column is not None:
            wanted.append(("id_column", self.id_column))
        wanted += [("keep", column) for column in self.keep]
        for argument, column in wanted:
            if columns and column not in columns:
                received = f"{column!r}, which {file} does not have"
                raise InputError(argument, received, f"it has {', '.join(columns[:20])}")
            if columns.count(column) > 1:
                received = f"{column!r}, which {file} has {columns.count(column)} times"
                raise InputError(argument, received, "rename one of them")
            if argument == "text_columns" and column in other_kinds:
                received = f"{column!r}, which holds {other_kinds[column]} in {file}"
                raise InputError(argument, received, "name a column of text")

    def locate(self, file: str) -> tuple[fs.FileSystem, str]:
        """The filesystem of a file, and the file's path in it."""
        filesystem, path = open_filesystem(self.location)
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            path = f"{path}/{file}"
        return filesystem, path


class Reading:
    """Reads rows of a corpus, file by file, each time from a position on.

    The file stays open, and the next reading continues where the last one ended if it can: a
    compressed file can be read only from its start.
    """

    def __init__(self, corpus: Corpus) -> None:
        """Opens nothing yet."""
        self._corpus = corpus
        self._stack = ExitStack()
        self._file: str | None = None
        self._reader: Reader
        self._rows: Iterator[ReadRow] = iter(())
        self._next_row = -1  # that `_rows` gives; -1 before the first reading of a file

    def __enter__(self) -> "Reading":
        """Use it in a `with`, which closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file that is open."""
        self._stack.close()
        self._file = None

    def open(self, file: str) -> Reader:
        """The file's reader.

        Raises:
            InputError: for a file that cannot be read, or lacks a column (JSON: in all of its first
                thousand rows).
        """
        if file != self._file:
            self.close()
            with reading(file):
                corpus = self._corpus
                filesystem, path = corpus.locate(file)
                opened = open_reader(filesystem, path, corpus.text_format, corpus.columns.all)
                self._reader = self._stack.enter_context(opened)
                corpus.check(self._reader, file)
            self._file, self._next_row = file, -1
        return self._reader

    def rows(self, file: str, start: ReadPosition = START, first: int = 0) -> Iterator[ReadRow]:
        """The file's rows that are no blank lines.

        Args:
            file: its path below the corpus's location.
            start: where reading may begin.
            first: number of the first row that is given; at least `start.row`.

        Raises:
            InputError: see `open`.
        """
        reader, next_row = self.open(file), self._next_row
        continues = 0 <= next_row <= first and (next_row >= start.row or not reader.seeks)
        if not continues:
            self._rows, self._next_row = self._read_rows(reader, file, start), start.row
        for row in self._rows:
            self._next_row = row.position.row + 1
            if row.position.row >= first:
                yield row

    def selected_rows(
        self, file: str, start: ReadPosition, row_numbers: Sequence[int]
    ) -> Iterator[ReadRow]:
        """The rows of these ascending numbers that are no blank lines; otherwise as `rows`."""
        wanted, last = set(row_numbers), row_numbers[-1]
        for row in self.rows(file, start, row_numbers[0]):
            if row.position.row in wanted:
                yield row
            if row.position.row >= last:
                return

    def _read_rows(self, reader: Reader, file: str, start: ReadPosition) -> Iterator[ReadRow]:
        columns = self._corpus.columns
        with reading(file):
            for number, (offset, row) in enumerate(reader.rows(start), start.row):
                if row is not None:
                    item = columns.document(row, f"{file}:{number}", has_types=reader.has_types)
                    yield ReadRow(ReadPosition(number, offset), item)


def _identity(filesystem: fs.FileSystem, info: fs.FileInfo) -> str:
    with reading(info.base_name), filesystem.open_input_file(info.path) as file:
        content = file.read(HASHED_BYTES)
        file.seek(max(0, info.size - HASHED_BYTES))
        content += file.read(HASHED_BYTES)
    changed = info.mtime_ns if info.mtime_ns is not None else ""
    return f"{info.size}-{changed}-{hashlib.sha256(content).hexdigest()[:16]}"
