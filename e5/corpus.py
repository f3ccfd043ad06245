"""A corpus as units of work: files of any size -> runs of rows -> documents, read as a stream.

Parquet, JSONL and CSV (the last two also with gzip), in a folder of this machine or wherever
pyarrow or fsspec reach (`s3://...`). A unit names a file and a run of its rows; whoever reads it
gets the same documents, so units can be done in any order, again, or elsewhere. Knows nothing of
vectors, models or shards.
"""

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from e5.errors import InputError
from e5.storage import UNREADABLE, open_filesystem
from e5.types import MAX_CHARACTERS

logger = logging.getLogger(__name__)

CSV = (".csv", ".csv.gz")
FORMATS = (".parquet", ".jsonl", ".jsonl.gz", *CSV)
CHECKED_ROWS = 1000  # of a JSONL file, before all its rows are taken to lack a column
BUFFER = 2**22  # bytes of one read: each is a request where files are far away
ENDS = 2**16  # bytes of a file's head and of its tail that tell whether it has changed
csv.field_size_limit(2**24)  # a larger field is most likely a quote that was left open


@dataclass(frozen=True)
class Unit:
    """A run of rows of one file.

    Attributes:
        file: its path below the corpus's location.
        first_row: the first of its rows.
        num_rows: how many.
        offset: where the first row begins in the uncompressed file, in bytes; 0 for Parquet.
    """

    file: str
    first_row: int
    num_rows: int
    offset: int = 0

    @property
    def name(self) -> str:
        """The unit's own name: other files beside its file do not change it.

        Example:
            >>> Unit("2026/a b.csv", 4096, 1000, 777).name
            'a-b-csv-1cbdd8c6a7b9d1ce-000000004096'
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
        text_columns: joined with a blank, as the model's authors join title and text.
        id_column: None numbers the rows: `file:row`.
    """

    location: str
    text_columns: tuple[str, ...] = ("text",)
    id_column: str | None = None

    def files(self) -> dict[str, str]:
        """What tells each file from a changed one, by its path below `location`, in order.

        That is its size in bytes, and a digest of its head and its tail. Files of other formats are
        left out, with a warning.

        Raises:
            InputError: where there is no such place, or no file of a known format.
        """
        filesystem, path = open_filesystem(self.location)
        try:
            info = filesystem.get_file_info(path)
            found = [info]
            if info.type == fs.FileType.Directory:
                found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
            names = {
                item.path.removeprefix(f"{path}/") if item.path != path else item.base_name: item
                for item in found
                if item.type == fs.FileType.File
            }
        except Exception as error:  # each kind of storage has its own
            received = f"{self.location}, which cannot be listed ({error})"
            raise InputError("IN", received, "give a file or folder in reach") from error
        if info.type == fs.FileType.NotFound:
            raise InputError("IN", self.location, "give a file or folder that exists")
        others = sorted(name for name in names if not name.lower().endswith(FORMATS))
        if len(others) == len(names):
            received = f"{self.location}, without a file of a known format"
            raise InputError("IN", received, f"give files that end in {', '.join(FORMATS)}")
        if others:
            logger.warning("%d files of other formats are left out: %s", len(others), others[:5])
        known = sorted(names.keys() - set(others))
        with ThreadPoolExecutor() as pool:
            identities = pool.map(lambda name: _identity(filesystem, names[name]), known)
            return dict(zip(known, identities, strict=True))

    def plan(self, files: Iterable[str], rows_per_unit: int) -> list[Unit]:
        """Every unit of the files. Reads JSONL and CSV once through, to count their rows.

        Raises:
            InputError: for a file that cannot be read, or lacks a column (of JSONL: in each of its
                first `CHECKED_ROWS`).
        """
        units = []
        for file in tqdm(files, "counting rows", unit="file", delay=2, disable=None):
            try:
                units += list(self._plan_file(file, rows_per_unit))
            except UNREADABLE as error:
                raise _unreadable(file, error) from error
        return units

    def read(self, unit: Unit) -> Iterator[Document | DeadLetter]:
        """The unit's documents in order; a dead letter stands where a row is none.

        Blank lines are neither.

        Raises:
            InputError: for a file that cannot be read.
        """
        try:
            for number, row in enumerate(self._rows(unit), unit.first_row):
                if row is not None:
                    yield self._document(row, f"{unit.file}:{number}")
        except UNREADABLE as error:
            raise _unreadable(unit.file, error) from error

    def _plan_file(self, file: str, rows_per_unit: int) -> Iterator[Unit]:
        if _is(file, ".parquet"):
            with self._open(file) as opened:
                parquet = pq.ParquetFile(opened)
                self._check_columns(file, parquet.schema_arrow.names)
                self._check_types(file, parquet.schema_arrow)
                num_rows = parquet.metadata.num_rows
            for first in range(0, num_rows, rows_per_unit):
                yield Unit(file, first, min(rows_per_unit, num_rows - first))
            return
        with self._open(file) as opened:
            if _is(file, *CSV):
                records = _CsvRecords(opened)
                if not records.header:
                    return
                self._check_columns(file, records.header)
                ends: Iterator[int] = (records.offset for _ in records)
                start = records.offset
            else:
                if columns := _json_columns(itertools.islice(opened, CHECKED_ROWS)):
                    self._check_columns(file, columns)
                opened.seek(0)
                ends = itertools.accumulate(len(line) for line in opened)
                start = 0
            first = row = 0
            for row, end in enumerate(ends, 1):
                if row - first == rows_per_unit:
                    yield Unit(file, first, rows_per_unit, start)
                    first, start = row, end
            if row > first:
                yield Unit(file, first, row - first, start)

    def _check_columns(self, file: str, columns: list[str]) -> None:
        for option, column in (
            *(("--text-column", column) for column in self.text_columns),
            ("--id-column", self.id_column),
        ):
            if column is not None and column not in columns:
                received = f"{column!r}, which {file} does not have"
                raise InputError(option, received, f"it has {', '.join(columns[:20])}")
            if columns.count(column or "") > 1:
                received = f"{column!r}, which {file} has {columns.count(column or '')} times"
                raise InputError(option, received, "rename one of them")

    def _check_types(self, file: str, schema: pa.Schema) -> None:
        for column in self.text_columns:
            kind = schema.field(column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            tests = ("is_string", "is_large_string", "is_string_view", "is_null")
            if not any(getattr(pa.types, test)(kind) for test in tests):
                received = f"{column!r}, which holds {kind} in {file}"
                raise InputError("--text-column", received, "name a column of text")

    def _rows(self, unit: Unit) -> Iterator[Mapping[str, Any] | str | None]:
        """Each row as a mapping, as the reason why it is none, or None for a blank line."""
        with self._open(unit.file) as opened:
            if _is(unit.file, ".parquet"):
                yield from self._parquet_rows(opened, unit)
            elif _is(unit.file, *CSV):
                records = _CsvRecords(opened)
                records.seek(unit.offset)
                for values in itertools.islice(records, unit.num_rows):
                    yield dict(zip(records.header, values, strict=False)) if values else None
            else:
                opened.seek(unit.offset)
                for line in itertools.islice(opened, unit.num_rows):
                    yield _json_row(line) if line.strip() else None

    def _parquet_rows(self, opened: Any, unit: Unit) -> Iterator[Mapping[str, Any] | str]:
        file = pq.ParquetFile(opened)
        columns = [*self.text_columns, *([self.id_column] if self.id_column else [])]
        skip, left = unit.first_row, unit.num_rows
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if skip >= num_rows:
                skip -= num_rows
                continue
            for batch in file.iter_batches(1024, [group], columns=columns):
                part = batch.slice(skip, left)
                skip -= min(skip, len(batch))
                left -= len(part)
                yield from _as_rows(part)
                if left == 0:
                    return

    def _document(self, row: Mapping[str, Any] | str, place: str) -> Document | DeadLetter:
        if isinstance(row, str):
            return DeadLetter(place, row)
        name = place
        if self.id_column is not None:
            value = row.get(self.id_column)
            if value is None or value == "" or isinstance(value, (bytes, dict, list)):
                return DeadLetter(place, f"{self.id_column}: holds no id")
            name = str(value)
        texts = []
        for column in self.text_columns:
            value = row.get(column)
            if value is not None and not isinstance(value, str):
                return DeadLetter(name, f"{column}: holds {type(value).__name__}, not text")
            texts.append(value or "")
        text = " ".join(texts).strip()
        try:
            (name + text).encode()
        except UnicodeEncodeError:
            name = name.encode(errors="replace").decode()
            return DeadLetter(name, "holds what is no valid Unicode")
        if not text:
            return DeadLetter(name, f"{', '.join(self.text_columns)}: empty")
        if len(text) > MAX_CHARACTERS:
            return DeadLetter(name, f"{len(text)} characters, more than {MAX_CHARACTERS}")
        return Document(name, text)

    def _open(self, file: str) -> Any:
        filesystem, path = open_filesystem(self.location)
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            path = f"{path}/{file}"
        raw = filesystem.open_input_file(path)
        if _is(file, ".parquet"):
            return raw
        buffered = io.BufferedReader(raw, BUFFER)
        return gzip.GzipFile(fileobj=buffered) if _is(file, ".gz") else buffered


class _CsvRecords:
    """The records of a CSV file, and where the next one begins."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.offset = 0
        self._records = csv.reader(self._lines())
        self.header = next((record for record in self._records if record), [])

    def __iter__(self) -> Iterator[list[str]]:
        return self._records

    def seek(self, offset: int) -> None:
        """Go on at the record that begins there."""
        self._opened.seek(offset)
        self._records = csv.reader(self._lines())

    def _lines(self) -> Iterator[str]:
        # Bytes that are no UTF-8 become lone surrogates, which make their own document a dead one.
        for part in self._opened:
            for line in re.findall(rb"[^\r]*(?:\r\n|\r)|[^\r]+", part):
                begins = self.offset == 0
                self.offset += len(line)
                if begins:
                    line = line.removeprefix(codecs.BOM_UTF8)
                yield line.decode(errors="surrogateescape")


def file_digest(file: str) -> str:
    """Sixteen hex digits of a file's name."""
    return hashlib.sha256(file.encode()).hexdigest()[:16]


def _is(file: str, *endings: str) -> bool:
    return file.lower().endswith(endings)


def _identity(filesystem: fs.FileSystem, info: fs.FileInfo) -> str:
    try:
        with filesystem.open_input_file(info.path) as file:
            ends = file.read(ENDS)
            file.seek(max(0, info.size - ENDS))
            ends += file.read(ENDS)
    except UNREADABLE as error:
        raise _unreadable(info.base_name, error) from error
    return f"{info.size}-{hashlib.sha256(ends).hexdigest()[:16]}"


def _as_rows(batch: pa.RecordBatch) -> list[Mapping[str, Any] | str]:
    """Rows as mappings; one that Python cannot hold, as text that is no UTF-8, as the reason."""
    try:
        rows: list[Mapping[str, Any] | str] = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [f"holds what cannot be read ({error})"]
        return [row for i in range(len(batch)) for row in _as_rows(batch.slice(i, 1))]
    return rows


def _unreadable(file: str, error: BaseException) -> InputError:
    return InputError(file, f"what cannot be read ({error})", "repair it and run again")


def _json_columns(lines: Iterable[bytes]) -> list[str]:
    """Every column that one of the rows has."""
    rows = map(_json_row, lines)
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def _json_row(line: bytes) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"a JSON {type(row).__name__}, not an object"
