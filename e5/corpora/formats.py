"""Files of rows, read as a stream: Parquet, JSONL and CSV, the last two also with gzip.

The reader of a format lists the columns, cuts a file into runs of rows, and reads the rows of a
run. Knows nothing of ids, documents or what becomes of a row.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

CSV = (".csv", ".csv.gz")
FORMATS = (".parquet", ".jsonl", ".jsonl.gz", *CSV)
CHECKED_ROWS = 1000  # read from a JSONL file to find its columns
BUFFER = 2**22  # bytes of one read; on remote storage each read is a request
csv.field_size_limit(2**24)  # a larger field is most likely a quote that was left open

# A row by its columns; a string, the reason why it cannot be read; None for a blank line.
Row: TypeAlias = Mapping[str, Any] | str | None


class Run(NamedTuple):
    """Consecutive rows of a file.

    Attributes:
        first_row: number of the first row, blank lines counted.
        num_rows: how many rows.
        offset: where the first row begins in the uncompressed file, in bytes; 0 for Parquet.
    """

    first_row: int
    num_rows: int
    offset: int


class Reader(Protocol):
    """An open file of rows."""

    def columns(self) -> list[str]:
        """Names of the columns, as far as they are known; empty for a file without rows."""

    def other_kinds(self) -> dict[str, str]:
        """Columns that cannot hold text, and their types."""

    def runs(self, num_rows: int) -> Iterator[Run]:
        """The whole file in runs of `num_rows` rows."""

    def rows(self, run: Run, columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a run, with at least these of their columns."""


@contextmanager
def open_reader(filesystem: fs.FileSystem, path: str) -> Iterator[Reader]:
    """The reader for the file name's extension."""
    name = path.lower()
    with filesystem.open_input_file(path) as raw:
        if name.endswith(".parquet"):
            yield _Parquet(raw)
            return
        buffered = io.BufferedReader(raw, BUFFER)
        opened = gzip.GzipFile(fileobj=buffered) if name.endswith(".gz") else buffered
        yield _Csv(opened) if name.endswith(CSV) else _Json(opened)


class _Parquet:
    def __init__(self, opened: Any) -> None:
        self._file = pq.ParquetFile(opened)

    def columns(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def other_kinds(self) -> dict[str, str]:
        kinds = {field.name: field.type for field in self._file.schema_arrow}
        return {name: str(kind) for name, kind in kinds.items() if not _holds_text(kind)}

    def runs(self, num_rows: int) -> Iterator[Run]:
        count = self._file.metadata.num_rows
        for first in range(0, count, num_rows):
            yield Run(first, min(num_rows, count - first), 0)

    def rows(self, run: Run, columns: Sequence[str]) -> Iterator[Row]:
        skip, left = run.first_row, run.num_rows
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if skip >= num_rows:
                skip -= num_rows
                continue
            for batch in self._file.iter_batches(1024, [group], columns=list(columns)):
                part = batch.slice(skip, left)
                skip -= min(skip, len(batch))
                left -= len(part)
                yield from _as_rows(part)
                if left == 0:
                    return


class _Json:
    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def columns(self) -> list[str]:
        rows = map(_json_row, itertools.islice(self._opened, CHECKED_ROWS))
        names = dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row)
        self._opened.seek(0)
        return list(names)

    def other_kinds(self) -> dict[str, str]:
        return {}

    def runs(self, num_rows: int) -> Iterator[Run]:
        return _runs(itertools.accumulate(len(line) for line in self._opened), 0, num_rows)

    def rows(self, run: Run, columns: Sequence[str]) -> Iterator[Row]:  # noqa: ARG002
        self._opened.seek(run.offset)
        for line in itertools.islice(self._opened, run.num_rows):
            yield _json_row(line) if line.strip() else None


class _Csv:
    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._offset = 0  # where the next record begins
        self._lines = self._decoded_lines()
        self._head = next((record for record in csv.reader(self._lines) if record), [])

    def columns(self) -> list[str]:
        return self._head

    def other_kinds(self) -> dict[str, str]:
        return {}

    def runs(self, num_rows: int) -> Iterator[Run]:
        return _runs(self._ends(), self._offset, num_rows)

    def rows(self, run: Run, columns: Sequence[str]) -> Iterator[Row]:  # noqa: ARG002
        self._opened.seek(run.offset)
        width = len(self._head)
        for values in itertools.islice(csv.reader(self._decoded_lines()), run.num_rows):
            if any(values[width:]):
                yield f"{len(values)} values for {width} columns"
            else:
                yield dict(zip(self._head, values, strict=False)) if values else None

    def _ends(self) -> Iterator[int]:
        """The byte offset of each record's end.

        Raises:
            csv.Error: for a quote that is never closed: its field takes in all that follows.
        """
        lines: list[str] = []  # read since the last record

        def noted() -> Iterator[str]:
            for line in self._lines:
                lines.append(line)
                yield line

        record: list[str] = []
        for _ in csv.reader(noted()):
            record, lines = lines, []
            yield self._offset
        if record and len(list(csv.reader([*record, ""]))) == 1:
            raise csv.Error("a quote is opened and never closed")

    def _decoded_lines(self) -> Iterator[str]:
        # Invalid UTF-8 becomes lone surrogates, which make only their own row a dead letter.
        for part in self._opened:
            for line in re.findall(rb"[^\r]*(?:\r\n|\r)|[^\r]+", part):
                begins = self._offset == 0
                self._offset += len(line)
                if begins:
                    line = line.removeprefix(codecs.BOM_UTF8)
                yield line.decode(errors="surrogateescape")


def _runs(ends: Iterable[int], start: int, num_rows: int) -> Iterator[Run]:
    """Runs of the rows that begin at `start` and end at `ends`, in bytes."""
    first = row = 0
    for row, end in enumerate(ends, 1):
        if row - first == num_rows:
            yield Run(first, num_rows, start)
            first, start = row, end
    if row > first:
        yield Run(first, row - first, start)


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("is_string", "is_large_string", "is_string_view", "is_null")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _as_rows(batch: pa.RecordBatch) -> list[Row]:
    """Rows as mappings; one that Python cannot represent (invalid UTF-8), as the reason."""
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [f"holds what cannot be read ({error})"]
        return [row for i in range(len(batch)) for row in _as_rows(batch.slice(i, 1))]
    return rows


def _json_row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"a JSON {type(row).__name__}, not an object"
