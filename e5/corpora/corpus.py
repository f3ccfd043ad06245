"""A corpus as units of work: files of any size -> runs of rows -> documents, read as a stream.

Files are local, or anywhere that pyarrow or fsspec can read (`s3://...`). A unit names a file and a
run of its rows. Every reader of a unit gets the same documents, so units can be done in any order,
repeatedly, on any machine. Knows nothing of vectors, models or shards.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyarrow import fs
from tqdm import tqdm

from e5.corpora.formats import FORMATS, Reader, Run, open_reader
from e5.corpora.storage import UNREADABLE, open_filesystem
from e5.errors import InputError
from e5.texts import check_text, check_unicode

logger = logging.getLogger(__name__)

ENDS = 2**16  # bytes at a file's start and end that are hashed to detect a change


@dataclass(frozen=True)
class Unit:
    """Consecutive rows of one file.

    Attributes:
        file: its path below the corpus's location.
        first_row: number of the first row.
        num_rows: how many rows.
        offset: where the first row begins in the uncompressed file, in bytes; 0 for Parquet.
    """

    file: str
    first_row: int
    num_rows: int
    offset: int = 0

    @property
    def name(self) -> str:
        """A name made from the file's path and the first row; other files do not change it.

        Example:
            >>> Unit("2026/a b.csv", 4096, 1000, 777).name
            'a-b-csv-5741a73d47ef3dec-000000004096'
        """
        stem = re.sub(r"[^A-Za-z0-9]+", "-", self.file.rpartition("/")[2])[:40]
        return f"{stem}-{file_digest(self.file)}-{self.first_row:012d}"


@dataclass(frozen=True)
class Document:
    """One row's id and text."""

    id: str
    text: str


@dataclass(frozen=True)
class DeadLetter:
    """A row that got no vector, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Where documents are and which columns hold them.

    Attributes:
        location: a file or a folder; a path or a URI.
        text_columns: joined with a space, as the model's authors join title and text.
        id_column: None makes ids from row numbers: `file:row`.
    """

    location: str
    text_columns: tuple[str, ...] = ("text",)
    id_column: str | None = None

    def __post_init__(self) -> None:
        """Refuse column names that are not valid Unicode."""
        for column in self.text_columns:
            check_unicode(column, "text_columns")
        if self.id_column is not None:
            check_unicode(self.id_column, "id_column")

    def files(self) -> dict[str, str]:
        """Identities of the files, by path below `location`, in order.

        An identity is the size in bytes and a digest of the file's start and end; it shows whether
        a file has changed. Files of other formats are left out, with a warning. A file that several
        links point to is listed once.

        Raises:
            InputError: if the location cannot be listed, or has no file of a known format.
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
        others = sorted(name for name in names if not name.lower().endswith(FORMATS))
        if len(others) == len(names):
            received = f"{self.location}, without a file of a known format"
            raise InputError("corpus", received, f"give files that end in {', '.join(FORMATS)}")
        if others:
            logger.warning("%d files of other formats are left out: %s", len(others), others[:5])
        known = sorted(names.keys() - set(others))
        with ThreadPoolExecutor() as pool:
            identities = pool.map(lambda name: _identity(filesystem, names[name]), known)
            return dict(zip(known, identities, strict=True))

    def plan(self, files: Iterable[str], rows_per_unit: int) -> list[Unit]:
        """Every unit of the files. Reads JSONL and CSV files once, to count their rows.

        Raises:
            InputError: for a file that cannot be read, or lacks a column (JSONL: in all of its
                first thousand rows).
        """
        units = []
        for file in tqdm(files, "counting rows", unit="file", delay=2, disable=None):
            try:
                with open_reader(*self._place(file)) as reader:
                    self._check(reader, file)
                    units += [Unit(file, *run) for run in reader.runs(rows_per_unit)]
            except UNREADABLE as error:
                raise _unreadable(file, error) from error
        return units

    def read(self, unit: Unit) -> Iterator[Document | DeadLetter]:
        """The unit's documents in order, with a dead letter for each row that cannot be embedded.

        Blank lines are skipped.

        Raises:
            InputError: for a file that cannot be read.
        """
        columns = [*self.text_columns, *([self.id_column] if self.id_column else [])]
        run = Run(unit.first_row, unit.num_rows, unit.offset)
        try:
            with open_reader(*self._place(unit.file)) as reader:
                for number, row in enumerate(reader.rows(run, columns), unit.first_row):
                    if row is not None:
                        yield self._document(row, f"{unit.file}:{number}")
        except UNREADABLE as error:
            raise _unreadable(unit.file, error) from error

    def _check(self, reader: Reader, file: str) -> None:
        """Refuse a file that lacks a column, has it twice, or cannot hold text in it."""
        columns, other_kinds = reader.columns(), reader.other_kinds()
        asked = [("text_columns", column) for column in self.text_columns]
        if self.id_column is not None:
            asked.append(("id_column", self.id_column))
        for field, column in asked:
            if columns and column not in columns:
                received = f"{column!r}, which {file} does not have"
                raise InputError(field, received, f"it has {', '.join(columns[:20])}")
            if columns.count(column) > 1:
                received = f"{column!r}, which {file} has {columns.count(column)} times"
                raise InputError(field, received, "rename one of them")
        for column in self.text_columns:
            if column in other_kinds:
                received = f"{column!r}, which holds {other_kinds[column]} in {file}"
                raise InputError("text_columns", received, "name a column of text")

    def _document(self, row: Mapping[str, Any] | str, place: str) -> Document | DeadLetter:
        if isinstance(row, str):
            return DeadLetter(place, row)
        name = place
        if self.id_column is not None:
            value = row.get(self.id_column)
            kinds = (bool, bytes, dict, list)
            if value is None or value == "" or value != value or isinstance(value, kinds):
                return DeadLetter(place, f"{self.id_column}: holds no id")
            name = str(value).encode(errors="replace").decode()
            if name != str(value):
                return DeadLetter(name, f"{self.id_column}: holds what is no valid Unicode")
        texts = []
        for column in self.text_columns:
            value = row.get(column)
            if value is not None and not isinstance(value, str):
                return DeadLetter(name, f"{column}: holds {type(value).__name__}, not text")
            texts.append(value or "")
        columns = ", ".join(self.text_columns)
        try:
            text = check_text(" ".join(texts).strip(), columns)
        except InputError as error:
            return DeadLetter(name, f"{columns}: {error.received}")
        return Document(name, text)

    def _place(self, file: str) -> tuple[fs.FileSystem, str]:
        filesystem, path = open_filesystem(self.location)
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            path = f"{path}/{file}"
        return filesystem, path


def file_digest(file: str) -> str:
    """Sixteen hex digits of the sha256 of a file's path."""
    return hashlib.sha256(file.encode()).hexdigest()[:16]


def _identity(filesystem: fs.FileSystem, info: fs.FileInfo) -> str:
    try:
        with filesystem.open_input_file(info.path) as file:
            ends = file.read(ENDS)
            file.seek(max(0, info.size - ENDS))
            ends += file.read(ENDS)
    except UNREADABLE as error:
        raise _unreadable(info.base_name, error) from error
    return f"{info.size}-{hashlib.sha256(ends).hexdigest()[:16]}"


def _unreadable(file: str, error: BaseException) -> InputError:
    return InputError(file, f"what cannot be read ({error})", "repair it and run again")
