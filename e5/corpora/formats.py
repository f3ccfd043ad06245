"""Files of rows, read as a stream: Parquet, JSON lines, JSON arrays, CSV and TSV.

The reader of a format lists the columns, and reads rows from any one on. Text files may be
compressed. Knows nothing of ids, documents or what becomes of a row.
"""

import codecs
import csv
import io
import itertools
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import ijson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from e5.corpora.streams import LONGEST_LINE, FormatError, lines, open_stream
from e5.errors import InputError

PACKED = ("", ".gz", ".zst")
TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMATS = (".parquet", *(f"{name}{packed}" for name in TEXT_FORMATS for packed in PACKED))
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
    """

    delimiter: str | None = None
    escape: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Refuse what nothing can be read by."""
        for field, value in (("delimiter", self.delimiter), ("escape", self.escape)):
            if value is not None and (len(value) != 1 or value in '"\r\n'):
                raise InputError(field, repr(value), "use one character")
        try:
            "".encode(self.encoding)
            codecs.getincrementaldecoder(self.encoding)
        except (LookupError, ValueError) as error:
            remedy = "use one that Python knows, such as utf-16 or latin-1"
            raise InputError("encoding", repr(self.encoding), remedy) from error


class Reader(Protocol):
    """An open file of rows.

    Attributes:
        seeks: whether reading can begin anywhere at no cost.
    """

    seeks: bool

    def columns(self) -> list[str]:
        """Names of the columns, as far as they are known; empty for a file without rows."""

    def other_kinds(self) -> dict[str, str]:
        """Columns that cannot hold text, and their types."""

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """The Arrow types of columns, in a file that has types."""

    def rows(
        self, columns: Sequence[str], mark: ReadPosition = START
    ) -> Iterator[tuple[int, SourceRow]]:
        """The rows from a mark on, each with its offset, with at least these columns."""


@contextmanager
def open_reader(
    filesystem: fs.FileSystem, path: str, text_format: TextFormat | None = None
) -> Iterator[Reader]:
    """The reader for the file name's extension; a FormatError for a file that is something else."""
    text_format = text_format or TextFormat()
    name = path.lower()
    if name.endswith(".parquet"):
        with filesystem.open_input_file(path) as raw:
            yield _Parquet(raw)
        return
    opened, seeks = open_stream(
        lambda: filesystem.open_input_file(path), name, text_format.encoding
    )
    with opened:
        kind = next(kind for kind in reversed(name.split(".")) if f".{kind}" in TEXT_FORMATS)
        if kind in ("csv", "tsv"):
            delimiter = text_format.delimiter or ("\t" if kind == "tsv" else ",")
            yield _Csv(opened, seeks, delimiter, text_format.escape)
        else:
            yield _JsonArray(opened) if kind == "json" else _JsonLines(opened, seeks)


class _Parquet:
    seeks = True

    def __init__(self, opened: Any) -> None:
        self._file = pq.ParquetFile(opened)

    def columns(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def other_kinds(self) -> dict[str, str]:
        kinds = {field.name: field.type for field in self._file.schema_arrow}
        return {name: str(kind) for name, kind in kinds.items() if not _holds_text(kind)}

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        return {name: self._file.schema_arrow.field(name).type for name in columns}

    def rows(
        self, columns: Sequence[str], mark: ReadPosition = START
    ) -> Iterator[tuple[int, SourceRow]]:
        skip = mark.row
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if skip >= num_rows:
                skip -= num_rows
                continue
            for batch in self._file.iter_batches(1024, [group], columns=list(columns)):
                part = batch.slice(skip)
                skip -= min(skip, len(batch))
                yield from ((0, row) for row in _as_rows(part))


class _Untyped:
    def other_kinds(self) -> dict[str, str]:
        return {}

    def types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:  # noqa: ARG002
        return {}


class _Json(_Untyped):
    def columns(self) -> list[str]:
        rows = (row for _, row in itertools.islice(self._rows(START), CHECKED_ROWS))
        return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))

    def rows(
        self, columns: Sequence[str], mark: ReadPosition = START
    ) -> Iterator[tuple[int, SourceRow]]:
        return self._rows(mark)

    def _rows(self, mark: ReadPosition) -> Iterator[tuple[int, SourceRow]]:
        raise NotImplementedError


class _JsonLines(_Json):
    def __init__(self, opened: io.BufferedReader, seeks: bool) -> None:
        self._opened, self.seeks = opened, seeks

    def _rows(self, mark: ReadPosition) -> Iterator[tuple[int, SourceRow]]:
        offset = mark.offset
        self._opened.seek(offset)
        for size, line in lines(self._opened):
            yield offset, _json_row(line if offset or not line else line.removeprefix(BOM_UTF8))
            offset += size


class _JsonArray(_Json):
    seeks = False

    def __init__(self, opened: io.BufferedReader) -> None:
        self._opened = opened

    def _rows(self, mark: ReadPosition) -> Iterator[tuple[int, SourceRow]]:
        self._opened.seek(0)
        start = self._opened.peek(3)[:3]
        self._opened.seek(len(BOM_UTF8) if start == BOM_UTF8 else 0)
        while (first := self._opened.peek(1)[:1]).isspace():
            self._opened.read(1)
        if first == b"":
            return
        if first != b"[":
            raise FormatError("it holds no JSON array; if each line is an object, name it .jsonl")
        try:
            for number, value in enumerate(ijson.items(self._opened, "item", use_float=True)):
                if number >= mark.row:
                    yield 0, _object(value)
        except ijson.JSONError as error:
            raise FormatError(f"not JSON: {error}") from error


class _Csv(_Untyped):
    def __init__(
        self, opened: io.BufferedReader, seeks: bool, delimiter: str, escape: str | None
    ) -> None:
        self._opened, self.seeks = opened, seeks
        self._options: Any = {"delimiter": delimiter, "escapechar": escape}
        self._offset = 0  # where the next record begins
        records = csv.reader(self._decoded_lines(), **self._options)
        self._head = next((record for record in records if record), [])
        self._start = self._offset

    def columns(self) -> list[str]:
        return self._head

    def rows(
        self, columns: Sequence[str], mark: ReadPosition = START
    ) -> Iterator[tuple[int, SourceRow]]:
        """As `Reader.rows`. A quote that is never closed is an error: it takes in all the rest."""
        self._offset = max(mark.offset, self._start)
        self._opened.seek(self._offset)
        width, begin = len(self._head), self._offset
        read: list[str] = []  # lines since the last record
        record: list[str] = []

        def noted() -> Iterator[str]:
            for line in self._decoded_lines():
                read.append(line)
                yield line

        for values in csv.reader(noted(), **self._options):
            here, begin = begin, self._offset
            record = read.copy()
            read.clear()
            if any(values[width:]):
                yield here, f"{len(values)} values for {width} columns"
            else:
                yield here, dict(zip(self._head, values, strict=False)) if values else None
        if record and len(list(csv.reader([*record, ""], **self._options))) == 1:
            raise csv.Error("a quote is opened and never closed")

    def _decoded_lines(self) -> Iterator[str]:
        # Invalid UTF-8 becomes lone surrogates, which make only their own row a dead letter.
        for _, part in lines(self._opened):
            if part is None:
                raise csv.Error(f"a line of more than {LONGEST_LINE} bytes")
            for line in re.findall(rb"[^\r]*(?:\r\n|\r)|[^\r]+", part):
                begins = self._offset == 0
                self._offset += len(line)
                if begins:
                    line = line.removeprefix(BOM_UTF8)
                yield line.decode(errors="surrogateescape")


def _is_bytes(kind: pa.DataType) -> bool:
    tests = ("is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("is_string", "is_large_string", "is_string_view", "is_null")
    return _is_bytes(kind) or any(getattr(pa.types, test)(kind) for test in tests)


def _as_rows(batch: pa.RecordBatch) -> list[SourceRow]:
    """Rows as mappings; one that Python cannot represent (invalid UTF-8), as the reason."""
    try:
        columns = dict(zip(batch.schema.names, map(_as_text, batch.columns), strict=True))
        rows: list[SourceRow] = pa.RecordBatch.from_pydict(columns).to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [f"holds what cannot be read ({error})"]
        return [row for i in range(len(batch)) for row in _as_rows(batch.slice(i, 1))]
    return rows


def _as_text(column: pa.Array) -> pa.Array:
    """Bytes as the text that they are in UTF-8; all else as it is."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_bytes(column.type):
        return column.cast(pa.large_binary()).cast(pa.large_string())
    return column


def _json_row(line: bytes | None) -> SourceRow:
    if line is None:
        return f"a line of more than {LONGEST_LINE} bytes"
    if not line.strip():
        return None
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return _object(row)


def _object(value: Any) -> Mapping[str, Any] | str:
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"
