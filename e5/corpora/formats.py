"""Files of rows, read as a stream: Parquet, JSON lines, JSON arrays, CSV and TSV.

The reader of a format lists the columns, and reads rows from any position on. Text files may be
compressed.
"""

import csv
import io
import itertools
import re
from abc import ABC, abstractmethod
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from e5.corpora.arrow_values import BYTES_TYPES, TEXT_TYPES, int96_times, values_of
from e5.corpora.json_values import decode, elements
from e5.corpora.row_starts import csv_row_starts, line_starts
from e5.corpora.streams import lines, open_stream
from e5.errors import InputError, quoted

TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMATS = (".parquet", *(f"{name}{end}" for name in TEXT_FORMATS for end in ("", ".gz", ".zst")))
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
    def records(self, start: ReadPosition = START) -> Iterator[tuple[int, Any]]:
        """What `parse` makes rows of, from a position on, each with its offset; None if blank."""

    def parse(self, record: Any) -> SourceRow:
        """The row that a record is."""
        row: SourceRow = record
        return row

    def starts(self, offsets: Sequence[int]) -> list[int] | None:  # noqa: ARG002
        """Offsets of the next rows after ascending ones, each once; None if that costs more."""
        return None

    def rows(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        """The rows from a position on, each with its offset."""
        return ((offset, self.parse(record)) for offset, record in self.records(start))


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
        self._opened, self._file = opened, pq.ParquetFile(opened)
        self.types = {field.name: field.type for field in self._file.schema_arrow}
        self._read = [name for name in self.types if columns is None or name in columns]
        leaves = map(self._file.schema.column, range(len(self._file.schema)))
        is_int96 = {leaf.path: leaf.physical_type == "INT96" for leaf in leaves}
        self._int96 = [name for name in self._read if is_int96.get(name)]

    def columns(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def records(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        skip = start.row
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if skip >= num_rows:
                skip -= num_rows
                continue
            seconds, first = self._seconds(group), 0
            for batch in self._file.iter_batches(1024, [group], columns=self._read):
                part = batch.slice(skip)
                columns = {name: values_of(part[name]) for name in self._read}
                for name, whole in seconds.items():
                    whole = whole.slice(first + skip, len(part))
                    columns[name] = int96_times(part[name], whole)
                values = zip(*columns.values(), strict=True)
                yield from ((0, dict(zip(columns, row, strict=True))) for row in values)
                first += len(batch)
                skip -= min(skip, len(batch))

    def _seconds(self, group: int) -> dict[str, pa.Array]:
        """The INT96 columns of a row group, in whole seconds."""
        if not self._int96:
            return {}
        table = self._file_in_seconds.read_row_group(group, self._int96).combine_chunks()
        return {name: table[name].chunk(0) for name in self._int96}

    @cached_property
    def _file_in_seconds(self) -> pq.ParquetFile:
        metadata = self._file.metadata
        return pq.ParquetFile(self._opened, metadata=metadata, coerce_int96_timestamp_unit="s")


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
    def records(self, start: ReadPosition = START) -> Iterator[tuple[int, bytes | str | None]]:
        offset = start.offset
        self._opened.seek(offset)
        for size, line in lines(self._opened, self._format.max_line_bytes):
            if line is None:
                yield offset, f"a line of more than {self._format.max_line_bytes} bytes"
            else:
                line = line if offset else line.removeprefix(BOM_UTF8)
                yield offset, line if line.strip(b" \t\r\n") else None
            offset += size

    def parse(self, record: bytes | str | None) -> SourceRow:
        return _json_row(record) if isinstance(record, bytes) else record

    def starts(self, offsets: Sequence[int]) -> list[int] | None:
        most = self._format.max_line_bytes
        return line_starts(self._opened, offsets, most) if self.seeks else None


class _JsonArray(_Json):
    def records(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        self._opened.seek(0)
        found = elements(self._opened, self._format.max_line_bytes)
        yield from ((0, _object(value)) for value in itertools.islice(found, start.row, None))


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

    def records(self, start: ReadPosition = START) -> Iterator[tuple[int, SourceRow]]:
        """See `Reader.records`. A quote that is never closed is an error: all the rest is in it."""
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

    def starts(self, offsets: Sequence[int]) -> list[int] | None:
        if not self.seeks or self._format.escape:
            return None
        return csv_row_starts(
            self._opened,
            [max(offset, self._start - 1) for offset in offsets],
            width=len(self._head),
            delimiter=self._options["delimiter"],
            max_bytes=self._format.max_line_bytes,
        )

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
    """Whether a column of an Arrow type can hold text; True for a column without a type."""
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.JsonType):
        kind = kind.storage_type
    return kind is None or kind == pa.null() or kind in TEXT_TYPES + BYTES_TYPES


def _json_row(line: bytes) -> SourceRow:
    try:
        # Bytes that are not UTF-8 become lone surrogates, which only their own value suffers from.
        text = line.decode(errors="surrogateescape").strip(" \t\r\n")
        value, end = decode(text)
        return _object(value) if end == len(text) else "not JSON (something comes after it)"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"


def _object(value: Any) -> Mapping[str, Any] | str:
    return value if isinstance(value, dict) else f"JSON, but not an object: {quoted(value)}"
