"""Rows chosen evenly over files of any size, always the same ones, with the vectors that they have.

Of Parquet only the row groups of chosen rows are read, of long JSON lines only what is around them;
in long CSV the quotes before them are counted. JSON arrays and compressed text are read once.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from e5.corpora.arrow_values import BYTES_TYPES, values_of
from e5.corpora.corpus import Corpus
from e5.corpora.documents import Unkept
from e5.corpora.filesystem import errors_naming, open_filesystem
from e5.corpora.formats import Reader, ReadPosition, SourceRow, open_reader
from e5.corpora.index import INDEX_MANIFEST
from e5.corpora.lance import Table
from e5.corpora.listing import corpus_files
from e5.corpora.manifest import Manifest
from e5.corpora.shard import VECTOR, decode_vectors
from e5.corpora.shard_folder import ShardFolder
from e5.errors import InputError
from e5.texts import check_text

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class SampleLimits:
    """Sizes that decide how much is read for a sample.

    Attributes:
        whole_bytes: smaller text files are read whole, so that their rows have numbers.
        parquet_bytes: about so many, uncompressed, are read of one Parquet file; of a file with
            larger row groups fewer of them.
    """

    whole_bytes: int = 2**24
    parquet_bytes: int = 2**32


@dataclass(frozen=True)
class SampledRow:
    """A chosen row.

    Attributes:
        id: of the id column; else `file:row`, or `file@byte` for where its line begins.
        text: the text columns, joined with a space, and not stripped.
        vector: what the vector column holds: a list, a text, bytes or None.
        problem: why it has no text that can be embedded, if it has none.
    """

    id: str
    text: str
    vector: Any
    problem: str = ""


class OwnSample(NamedTuple):
    """Chosen rows of a folder of shards or of an index, and its manifest. Vectors are decoded."""

    rows: list[SampledRow]
    manifest: Manifest


def own_sample(location: str, count: int) -> OwnSample | None:
    """At most `count` rows of a folder of shards or of an index; None for any other location.

    Raises:
        InputError: for a shard that cannot be read.
        OSError: for an index that cannot be read.
    """
    filesystem, path = open_filesystem(location)
    with suppress(InputError):  # the file is that of another program
        manifest = Manifest.read(filesystem, f"{path}/{INDEX_MANIFEST}")
        if manifest is not None and (table := Table.open(location)) is not None:
            rows = table.take(_evenly(random.Random(0), count, len(table)), ["id", "text", VECTOR])
            return OwnSample([SampledRow(*row) for row in rows], manifest)
    manifest = None
    with suppress(InputError):
        manifest = ShardFolder(location).manifest()
    if manifest is None:
        return None
    found = sample_rows(Corpus(location, id_column="id"), VECTOR, count)
    if manifest.dtype == "binary":
        found = [replace(row, vector=_decoded(row.vector)) for row in found]
    return OwnSample(found, manifest)


def sample_rows(
    corpus: Corpus,
    vector_column: str,
    count: int,
    limits: SampleLimits = SampleLimits(),  # it is frozen
) -> list[SampledRow]:
    """At most `count` rows of a corpus, chosen evenly over the bytes of its files.

    They are the same rows each time, in the order of the files. The corpus's kept columns are not
    read.

    Raises:
        InputError: for files that cannot be listed or read, or that lack a column; the vector
            column is called `vector_column`.
    """
    filesystem, files = corpus_files(corpus.location)
    sampling = _Sampling(corpus, vector_column, limits)
    total = sum(info.size for info in files.values())
    points = iter(_evenly(sampling.draw, count, total))
    point, end, missing = next(points, None), 0, 0
    found = list[SampledRow]()
    for name, info in files.items():
        end, wanted = end + info.size, missing
        while point is not None and point < end:
            point, wanted = next(points, None), wanted + 1
        if wanted:
            with errors_naming(name):
                rows = list(sampling.rows_of_file(filesystem, info, name, wanted))
            found += rows
            missing = wanted - len(rows)
    return found


class _Sampling:
    """The choice of rows of one file after another."""

    def __init__(self, corpus: Corpus, vector_column: str, limits: SampleLimits) -> None:
        self._corpus, self._vector_column, self._limits = corpus, vector_column, limits
        columns = replace(corpus, keep=(), named_types={}).columns
        self._columns = [*columns, ("vector_column", vector_column)]
        self.draw = random.Random(0)

    def rows_of_file(
        self, filesystem: fs.FileSystem, info: fs.FileInfo, name: str, count: int
    ) -> Iterator[SampledRow]:
        if info.path.lower().endswith(".parquet"):
            with filesystem.open_input_file(info.path) as opened:
                file = pq.ParquetFile(opened)
                self._check(file.schema_arrow.names, name)
                for number, values in self._rows_of_parquet(file, count):
                    yield self._sampled(values, f"{name}:{number}")
            return
        with open_reader(filesystem, info.path, self._corpus.text_format) as reader:
            has_head = not reader.has_types
            keys = dict[str, None]()  # of JSON, which has no head
            if has_head:
                self._check(reader.columns(), name)
            starts = None
            if info.size > self._limits.whole_bytes:
                # The first one, so that a file of few rows has one.
                starts = reader.starts([0, *_evenly(self.draw, count, info.size)[1:]])
            if starts is None:
                rows, mark = _reservoir(reader, count, self.draw), ":"
            else:
                rows, mark = _rows_at(reader, starts), "@"
            for number_or_offset, row in rows:
                keys |= dict.fromkeys(row if isinstance(row, Mapping) else ())
                yield self._sampled(row, f"{name}{mark}{number_or_offset}")
            if not has_head:
                self._check(list(keys), name)

    def _rows_of_parquet(
        self, file: pq.ParquetFile, count: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows with their numbers in the file."""
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        firsts = np.cumsum([0, *(group.num_rows for group in groups)]).tolist()
        mean_bytes = sum(group.total_byte_size for group in groups) // max(1, len(groups))
        most = max(1, self._limits.parquet_bytes // max(1, mean_bytes))
        chosen = _evenly(self.draw, min(count, most), len(groups))
        # The numbers of rows among those of the chosen groups.
        numbers = _evenly(self.draw, count, sum(groups[i].num_rows for i in chosen))
        before = 0
        for i in chosen:
            begin, before = before, before + groups[i].num_rows
            wanted = [number - begin for number in numbers if begin <= number < before]
            for number, row in _take(file, i, [name for _, name in self._columns], wanted):
                yield firsts[i] + number, row

    def _check(self, names: Sequence[str], file: str) -> None:
        """Refuse a file that lacks a column, or has it twice; one without any has no rows."""
        for attribute, column in self._columns if names else ():
            if column not in names:
                remedy = f"it has {', '.join(names[:20])}"
                raise InputError(attribute, f"{column!r}, which {file} does not have", remedy)
            if (times := names.count(column)) > 1:
                received = f"{column!r}, which {file} has {times} times"
                raise InputError(attribute, received, "rename one of them")

    def _sampled(self, row: SourceRow, default_id: str) -> SampledRow:
        if not isinstance(row, Mapping):
            return SampledRow(default_id, "", None, str(row))
        own = None if self._corpus.id_column is None else row.get(self._corpus.id_column)
        name = default_id if own is None or own == "" or isinstance(own, Unkept) else str(own)
        vector, texts = row.get(self._vector_column), list[str]()
        for column in self._corpus.text_columns:
            value = row.get(column)
            if value is not None and not isinstance(value, str):
                holds = value.reason if isinstance(value, Unkept) else type(value).__name__
                return SampledRow(name, "", vector, f"{column} holds {holds}")
            texts.append(value or "")
        try:
            return SampledRow(name, check_text(" ".join(texts), "text"), vector)
        except InputError as error:
            return SampledRow(name, "", vector, error.received)


def _take(
    file: pq.ParquetFile, group: int, columns: Sequence[str], numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a row group with these ascending numbers. No more of it is read than needed."""
    wanted, begin = list(numbers), 0
    vector_column = columns[-1]
    for batch in file.iter_batches(_BATCH_ROWS, [group], columns=list(columns)) if wanted else ():
        taken = [number for number in wanted if number < begin + len(batch)]
        rows = batch.take(pa.array([number - begin for number in taken], pa.int64()))
        values = {name: values_of(rows[name]) for name in columns if name != vector_column}
        values[vector_column] = _vectors_of(rows[vector_column])
        for i, number in enumerate(taken):
            yield number, {name: column[i] for name, column in values.items()}
        begin, wanted = begin + len(batch), wanted[len(taken) :]
        if not wanted:
            return


def _vectors_of(column: pa.Array) -> list[Any]:
    """The values of a column of vectors: `values_of`, but bytes stay bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_bytes = column.type in BYTES_TYPES or pa.types.is_fixed_size_binary(column.type)
    return column.to_pylist() if is_bytes else values_of(column)


def _rows_at(reader: Reader, starts: Sequence[int]) -> Iterator[tuple[int, SourceRow]]:
    """The rows that begin at some offsets, with these."""
    for start in starts:
        row = next((row for _, row in reader.rows(ReadPosition(0, start))), None)
        if row is not None:
            yield start, row


def _reservoir(reader: Reader, count: int, draw: random.Random) -> Iterator[tuple[int, SourceRow]]:
    """Rows with their numbers, each as likely as any other (reservoir sampling)."""
    kept, seen = list[tuple[int, Any]](), 0
    records = tqdm(reader.records(), "reading", unit="row", delay=2, disable=None)
    for number, (_, record) in enumerate(records):
        if record is not None:
            seen += 1
            position = len(kept) if len(kept) < count else draw.randrange(seen)
            if position < count:
                kept[position : position + 1] = [(number, record)]
    for number, record in sorted(kept, key=lambda pair: pair[0]):
        yield number, reader.parse(record)


def _decoded(vector: Sequence[int]) -> list[float]:
    """A vector that is stored as one bit for each dimension."""
    decoded: list[float] = decode_vectors(np.array([vector], np.uint8), "binary")[0].tolist()
    return decoded


def _evenly(draw: random.Random, count: int, size: int) -> list[int]:
    """So many different numbers below `size`, one of each of as many equal parts, ascending."""
    count = min(count, size)
    bounds = [i * size // count for i in range(count)] + [size] if count else []
    return [draw.randrange(first, end) for first, end in pairwise(bounds)]
