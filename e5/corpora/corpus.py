"""A corpus: files of any size, anywhere that pyarrow or fsspec can read -> documents, as a stream.

A place in a file is a row's number, with the offset at which a row before it begins; every reading
that begins at a place gives the same documents. Knows nothing of vectors, models or shards.
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
from e5.corpora.filesystem import READ_ERRORS, open_filesystem
from e5.corpora.formats import FORMATS, START, Reader, ReadPosition, TextFormat, open_reader
from e5.errors import InputError

logger = logging.getLogger(__name__)

ENDS = 2**16  # bytes at a file's start and end that are hashed to detect a change


class ReadRow(NamedTuple):
    """What a row is, and where it begins. Blank lines are not found."""

    position: ReadPosition
    item: Document | DeadLetter


@dataclass(frozen=True)
class Corpus:
    """Where documents are and which columns hold them.

    Attributes:
        location: a file or a folder; a path or a URI.
        text_columns: joined with a space, as the model's authors join title and text.
        id_column: None makes ids from row numbers: `file:row`.
        keep: columns that are carried through to the shards and the index.
        text_format: how CSV, TSV and JSON are written.
    """

    location: str
    text_columns: tuple[str, ...] = ("text",)
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    text_format: TextFormat = field(default_factory=TextFormat)

    def __post_init__(self) -> None:
        """Refuse columns that cannot be."""
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
            found = [info]
            if info.type == fs.FileType.Directory:
                found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
            found = [item for item in found if item.type == fs.FileType.File]
            if isinstance(filesystem, fs.LocalFileSystem):
                shortest = sorted(found, key=lambda item: (-len(item.path), item.path))
                found = list({os.path.realpath(item.path): item for item in shortest}.values())
            names = {
                item.path.removeprefix(f"{path}/") if item.path != path else item.base_name: item
                for item in found
            }
        except Exception as error:  # each kind of storage raises its own
            received = f"{self.location}, which cannot be listed ({error})"
            raise InputError("corpus", received, "give a file or folder in reach") from error
        if info.type == fs.FileType.NotFound:
            raise InputError("corpus", self.location, "give a file or folder that exists")
        if info.type == fs.FileType.Directory:
            hidden = [name for name in names if any(part[0] in "._" for part in name.split("/"))]
            for name in hidden:
                del names[name]
            if hidden:
                logger.info("%d files are hidden by their names and left out", len(hidden))
        others = sorted(name for name in names if not name.lower().endswith(FORMATS))
        if others and len(others) == len(names):
            received = f"{self.location}, without a file of a known format"
            raise InputError("corpus", received, f"give files that end in {', '.join(FORMATS)}")
        if others:
            logger.warning("%d files of other formats are left out: %s", len(others), others[:5])
        known = sorted(names.keys() - set(others))
        with ThreadPoolExecutor() as pool:
            identities = pool.map(lambda name: _identity(filesystem, names[name]), known)
            return dict(zip(known, identities, strict=True))

    def read(self, file: str) -> Iterator[ReadRow]:
        """All of a file.

        Raises:
            InputError: for a file that cannot be read, or lacks a column (JSON: in all of its first
                thousand rows).
        """
        with Reading(self) as reading:
            yield from reading.rows(file)

    def check(self, reader: Reader, file: str) -> None:
        """Refuse a file that lacks a column, has it twice, or cannot hold text in it."""
        columns, other_kinds = reader.columns(), reader.other_kinds()
        asked = [("text_columns", column) for column in self.text_columns]
        if self.id_column is not None:
            asked.append(("id_column", self.id_column))
        asked += [("keep", column) for column in self.keep]
        for argument, column in asked:
            if columns and column not in columns:
                received = f"{column!r}, which {file} does not have"
                raise InputError(argument, received, f"it has {', '.join(columns[:20])}")
            if columns.count(column) > 1:
                received = f"{column!r}, which {file} has {columns.count(column)} times"
                raise InputError(argument, received, "rename one of them")
        for column in self.text_columns:
            if column in other_kinds:
                received = f"{column!r}, which holds {other_kinds[column]} in {file}"
                raise InputError("text_columns", received, "name a column of text")

    def place(self, file: str) -> tuple[fs.FileSystem, str]:
        """The filesystem of a file, and its path there."""
        filesystem, path = open_filesystem(self.location)
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            path = f"{path}/{file}"
        return filesystem, path


class Reading:
    """Reads rows of a corpus, file by file, each from one place to a later one.

    The file stays open, and the next reading goes on where the last one ended if it can: a
    compressed file can be read only from its start.
    """

    def __init__(self, corpus: Corpus) -> None:
        """Nothing is open yet."""
        self._corpus = corpus
        self._stack = ExitStack()
        self._file: str | None = None
        self._reader: Reader
        self._rows: Iterator[ReadRow] = iter(())
        self._next = 0  # row

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
            InputError: see `Corpus.read`.
        """
        if file != self._file:
            self.close()
            try:
                place = self._corpus.place(file)
                opened = open_reader(*place, self._corpus.text_format)
                self._reader = self._stack.enter_context(opened)
                self._corpus.check(self._reader, file)
            except READ_ERRORS as error:
                raise _unreadable(file, error) from error
            self._file, self._next = file, -1
        return self._reader

    def rows(self, file: str, mark: ReadPosition = START, first: int = 0) -> Iterator[ReadRow]:
        """The file's rows from `first` on, which is `mark.row` or comes after it.

        Raises:
            InputError: see `Corpus.read`.
        """
        reader = self.open(file)
        can_go_on = 0 <= self._next <= first and (self._next >= mark.row or not reader.seeks)
        if not can_go_on:
            self._rows, self._next = self._documents(reader, file, mark), mark.row
        for found in self._rows:
            self._next = found.position.row + 1
            if found.position.row >= first:
                yield found

    def selected_rows(
        self, file: str, mark: ReadPosition, rows: Sequence[int]
    ) -> Iterator[ReadRow]:
        """Some rows of a file, in ascending order; those that are no documents are left out.

        Raises:
            InputError: see `Corpus.read`.
        """
        wanted, last = set(rows), rows[-1]
        for found in self.rows(file, mark, rows[0]):
            if found.position.row in wanted:
                yield found
            if found.position.row >= last:
                return

    def _documents(self, reader: Reader, file: str, mark: ReadPosition) -> Iterator[ReadRow]:
        columns = self._corpus.columns
        try:
            for number, (offset, row) in enumerate(reader.rows(columns.all, mark), mark.row):
                if row is not None:
                    item = columns.document(row, f"{file}:{number}")
                    yield ReadRow(ReadPosition(number, offset), item)
        except READ_ERRORS as error:
            raise _unreadable(file, error) from error


def _identity(filesystem: fs.FileSystem, info: fs.FileInfo) -> str:
    try:
        with filesystem.open_input_file(info.path) as file:
            ends = file.read(ENDS)
            file.seek(max(0, info.size - ENDS))
            ends += file.read(ENDS)
    except READ_ERRORS as error:
        raise _unreadable(info.base_name, error) from error
    changed = info.mtime_ns if info.mtime_ns is not None else ""
    return f"{info.size}-{changed}-{hashlib.sha256(ends).hexdigest()[:16]}"


def _unreadable(file: str, error: BaseException) -> InputError:
    return InputError(file, f"what cannot be read ({error})", "repair it and run again")
