"""Files of rows, read as a stream: Parquet, JSON lines, JSON arrays, CSV and TSV.

The reader of a format lists the columns, and reads rows from any one on. Text files may be
compressed.
"""

import csv
import io
import itertools
import json
import re
from abc import ABC, abstractmethod
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import ijson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from e5.corpora.streams import FormatError, lines, open_stream
from e5.errors import InputError

TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMATS = (".parquet", *(f"{name}{end}" for name in TEXT_FORMATS for end in ("", ".gz", ".zst")))
TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.null())
BYTES_TYPES = (pa.binary(), pa.large_binary(), pa.binary_view())
CHECKED_ROWS = 1000  # read from a JSON file to find its columns
csv.field_size_limit(2**24)  # a larger field is most likely a quote that was left open

# A row by its columns; a string, the reason why it cannot be read; None for a blank line.
SourceRow: TypeAlias = Mapping[str, Any] | str | None


class ReadPosition(NamedTuple):
    """Where reading can begin: a row's number (blank lines count), and the row's offset."""

    row: int = 0
    offset: int = 0


START = ReadPosition()


@dataclass(frozen=True)
class TextFormat:
    """How text files are written.

    Attributes:
        delimiter: between the values of a CSV file; None for a comma, or a tab in `.tsv`.
        escape: stands before a quote inside a quoted value. A doubled quote is one as well.
        encoding: a name that Python knows.
        max_line_bytes: a longer line is not read as a row, because it may not fit in memory.
    """

    delimiter: str | None = None
    escape: str | None = None
    encoding: str = "utf-8"
    max_line_bytes: int = 2**26

    def __post_init__(self) -> None:
        """Refuse values with which nothing can be read."""
        for field, value in (("delimiter", self.delimiter), ("escape", self.escape)):
            if value is not None and (len(value) != 1 or value in '"\r\n'):
                raise InputError(field, repr(value), "use one character")
        try:
            "".encode(self.encoding)
            getincrementaldecoder(self.encoding)
        except (LookupError, ValueError) as error:
            remedy = "use one that Python knows, such as utf-16 or latin-1"
            raise InputError("encoding", repr(self.encoding), remedy) from error


class Reader(ABC):
    """An open file of rows."""

    seeks = True  # whether reading can begin at any row at no cost
    has_types = True  # whether values have types; False where every value is written as text
    types: Mapping[str, pa.DataType] = MappingProxyType({})  # of columns, if the file has them

    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns, as far as they are known; empty for a file without rows."""

    @abstractmethod
    def rows(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        """The rows from a position on, each with its offset."""


@contextmanager
def open_reader(
    filesystem: fs.FileSystem,
    path: str,
    text_format: TextFormat | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Reader]:
    """The reader for the extension of a file's name; a FormatError for a file of another format.

    Rows have at least those of `columns` that the file has; None for all.
    """
    text_format = text_format or TextFormat()
    open_file, name = partial(filesystem.open_input_file, path), path.lower()
    if name.endswith(".parquet"):
        with open_file() as raw:
            yield _Parquet(raw, columns)
        return
    opened, seeks = open_stream(open_file, name, text_format.encoding)
    with opened:
        kind = next(kind for kind in reversed(name.split(".")) if f".{kind}" in TEXT_FORMATS)
        readers = {"json": _JsonArray, "csv": _Csv, "tsv": _Csv}
        yield readers.get(kind, _JsonLines)(opened, seeks, text_format, kind)


class _Parquet(Reader):
    def __init__(self, opened: Any, columns: Sequence[str] | None) -> None:
        self._file = pq.ParquetFile(opened)
        self.types = {field.name: field.type for field in self._file.schema_arrow}
        self._read = columns if columns is None else [n for n in columns if n in self.types]

    def columns(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def rows(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        skip = start.row
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if skip >= num_rows:
                skip -= num_rows
                continue
            for batch in self._file.iter_batches(1024, [group], columns=self._read):
                yield from ((0, row) for row in _as_rows(batch.slice(skip)))
                skip -= min(skip, len(batch))


class _TextReader(Reader):
    def __init__(
        self, opened: io.BufferedReader, seeks: bool, text_format: TextFormat, kind: str
    ) -> None:
        self._opened, self._format, self._kind = opened, text_format, kind
        self.seeks = seeks and kind != "json"


class _Json(_TextReader):
    def columns(self) -> list[str]:
        rows = (row for _, row in itertools.islice(self.rows(), CHECKED_ROWS))
        return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


class _JsonLines(_Json):
    def rows(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        offset = start.offset
        self._opened.seek(offset)
        for size, line in lines(self._opened, self._format.max_line_bytes):
            if line is None:
                yield offset, f"a line of more than {self._format.max_line_bytes} bytes"
            else:
                yield offset, _json_row(line if offset else line.removeprefix(BOM_UTF8))
            offset += size


class _JsonArray(_Json):
    def rows(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        self._opened.seek(0)
        if self._opened.peek(3).startswith(BOM_UTF8):
            self._opened.seek(len(BOM_UTF8))
        while (first := self._opened.peek(1)[:1]).isspace():
            self._opened.read(1)
        if first == b"":
            return
        if first != b"[":
            raise FormatError("it holds no JSON array; if each line is an object, name it .jsonl")
        try:
            values = ijson.items(self._opened, "item", use_float=True)
            for value in itertools.islice(values, start.row, None):
                yield 0, _object(value)
        except ijson.JSONError as error:
            raise FormatError(f"not JSON: {error}") from error


class _Csv(_TextReader):
    has_types = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        delimiter = self._format.delimiter or ("\t" if self._kind == "tsv" else ",")
        self._options: Any = {"delimiter": delimiter, "escapechar": self._format.escape}
        self._offset = 0  # where the next record begins
        records = csv.reader(self._decoded_lines(), **self._options)
        self._head = next((record for record in records if record), [])
        self._start = self._offset

    def columns(self) -> list[str]:
        return self._head

    def rows(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        """As `Reader.rows`. A quote that is never closed is an error: it takes in all the rest."""
        self._offset = max(start.offset, self._start)
        self._opened.seek(self._offset)
        width, begin = len(self._head), self._offset
        record: list[str] = []  # lines of the record that is read
        last: list[str] = []

        def recorded_lines() -> Iterator[str]:
            for line in self._decoded_lines():
                record.append(line)
                yield line

        for values in csv.reader(recorded_lines(), **self._options):
            offset, begin = begin, self._offset
            last, record[:] = record.copy(), []
            if any(values[width:]):
                yield offset, f"{len(values)} values for {width} columns"
            else:
                yield offset, dict(zip(self._head, values, strict=False)) if values else None
        if last and len(list(csv.reader([*last, ""], **self._options))) == 1:
            raise csv.Error("a quote is opened and never closed")

    def _decoded_lines(self) -> Iterator[str]:
        # Invalid UTF-8 becomes lone surrogates, which make only their own row a dead letter.
        for _, part in lines(self._opened, self._format.max_line_bytes):
            if part is None:
                raise csv.Error(f"a line of more than {self._format.max_line_bytes} bytes")
            for line in re.findall(rb"[^\r]*(?:\r\n|\r)|[^\r]+", part):
                is_first = self._offset == 0
                self._offset += len(line)
                if is_first:
                    line = line.removeprefix(BOM_UTF8)
                yield line.decode(errors="surrogateescape")


def holds_text(kind: pa.DataType | None) -> bool:
    """Whether a column of an Arrow type can hold text; True for one without a type."""
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind is None or kind in TEXT_TYPES or kind in BYTES_TYPES


def _as_rows(batch: pa.RecordBatch) -> list[SourceRow]:
    """Rows by their columns; the reason for one that Python cannot represent (invalid UTF-8)."""
    try:
        columns = dict(zip(batch.schema.names, map(_as_text, batch.columns), strict=True))
        rows: list[SourceRow] = pa.RecordBatch.from_pydict(columns).to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [f"holds a value that cannot be read ({error})"]
        return [row for i in range(len(batch)) for row in _as_rows(batch.slice(i, 1))]
    return rows


def _as_text(column: pa.Array) -> pa.Array:
    """Bytes as the text that they are in UTF-8; all else as it is."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type in BYTES_TYPES:
        return column.cast(pa.large_binary()).cast(pa.large_string())
    return column


def _json_row(line: bytes) -> SourceRow:
    try:
        return _object(json.loads(line.decode())) if line.strip() else None
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"


def _object(value: Any) -> Mapping[str, Any] | str:
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"
