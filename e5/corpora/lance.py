"""A LanceDB table of vectors on disk: rows in, the rows nearest by cosine or by keywords out.

A small table is searched whole; a large one through IVF-RQ: one bit for each dimension finds
candidates, and the stored float16 vectors rank them. Inverted indexes find keywords (BM25): one of
the words of all texts, one of the n-grams of those that have some.
"""

import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Otherwise LanceDB warns whoever makes a table that there was none.
os.environ.setdefault("LANCEDB_LOG", "error")
import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import FTS, IvfRq
from lancedb.query import (
    BooleanQuery,
    FullTextQuery,
    LanceFtsQueryBuilder,
    LanceVectorQueryBuilder,
    MatchQuery,
    Occur,
)

from e5.corpora.arrow_values import values_of
from e5.corpora.column_names import as_stored, in_sql, stored_names, with_stored_names
from e5.corpora.ngrams import ngrams_of_query
from e5.corpora.shard import VECTOR
from e5.errors import InputError, shortened
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

TABLE = "documents"
NGRAMS = "_ngrams"  # the column of `ngrams_of_document`; indexes of earlier releases have none
KEYWORD_INDEX, NGRAM_INDEX = "words", "ngrams"  # names of the inverted indexes in the table
HIDDEN_COLUMNS = ("shard", NGRAMS, VECTOR)  # that a hit does not show
GROWTH = 4  # the index is rebuilt once it should have this many times its partitions
CANDIDATES = 10  # that are found by bits for each result, and ranked by float16
MIN_RESULTS = 20  # candidates are found for at least so many results


@dataclass(frozen=True)
class IndexLimits:
    """Sizes that decide how an index is built.

    Attributes:
        shards_per_commit: the most shards that one commit adds: all of them or none.
        min_floats: a table of fewer floats gets no IVF-RQ index; to scan as many takes about
            30 ms on one core.
        partition_size: vectors in one partition of that index.
    """

    shards_per_commit: int = 32
    min_floats: int = 2**24
    partition_size: int = 4096


class Table:
    """Rows of `id`, `text`, `shard`, other columns, n-grams, and a normalised float16 vector.

    Its methods raise an OSError of one line if the location cannot be read or written.

    Attributes:
        stored_names: the names that a hit's columns have in `schema` and in rows, by their own.
    """

    def __init__(self, location: str, table: lancedb.table.Table) -> None:
        self._location, self._table = location, table
        shown = (field for field in table.schema if field.name not in HIDDEN_COLUMNS)
        self.stored_names = stored_names(pa.schema(shown))

    @classmethod
    def open(cls, location: str) -> "Table | None":
        """The table at a location, or None. Creates the folder if it is missing."""
        with _as_os_error(location):
            connection = lancedb.connect(location)
            if TABLE not in connection.list_tables().tables:
                return None
            return cls(location, connection.open_table(TABLE))

    @classmethod
    def create(cls, location: str, columns: pa.Schema, dimensions: int) -> "Table":
        """A new, empty table with these columns; replaces an older one."""
        fields = [pa.field("shard", pa.string())]
        # They are many, and each is there twice or three times.
        fields += [pa.field(NGRAMS, pa.string(), metadata={"lance-encoding:compression": "zstd"})]
        fields += [pa.field(VECTOR, pa.list_(pa.float16(), dimensions))]
        schema = pa.schema([*as_stored(columns), *fields])
        with _as_os_error(location):
            made = lancedb.connect(location).create_table(TABLE, schema=schema, mode="overwrite")
            return cls(location, made)

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._table.count_rows())

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows."""
        return self._table.schema

    @property
    def partitions(self) -> int:
        """The number of partitions of the newest IVF-RQ index; 0 without one."""
        prefix, names = "partitions_", self._indexes
        return max((int(n.removeprefix(prefix)) for n in names if n.startswith(prefix)), default=0)

    @property
    def _indexes(self) -> set[str]:
        return {index.name for index in self._table.list_indices()}

    def replace(
        self, batches: Iterable[pa.RecordBatch], shards: Sequence[str], *, is_new: bool
    ) -> None:
        """Make these shards' rows the given ones, in one commit: all of it happens, or nothing.

        A row whose id is in another shard is removed from that one. `batches` have the table's
        schema; an error that they raise becomes an OSError. With `is_new` the table has none of the
        rows, and adding them is quicker.
        """
        reader = pa.RecordBatchReader.from_batches(self.schema, iter(batches))
        with _as_os_error(self._location):
            if is_new:
                self._table.add(reader)
                return
            merge = self._table.merge_insert("id")
            merge.when_matched_update_all().when_not_matched_insert_all()
            merge.when_not_matched_by_source_delete(_in_shards(shards)).execute(reader)

    def remove(self, shards: Sequence[str]) -> None:
        """Delete the rows of shards, in one commit."""
        with _as_os_error(self._location):
            self._table.delete(_in_shards(shards))

    def update_index(self, limits: IndexLimits) -> None:
        """Build the indexes or add new rows; rebuild that of vectors if the table outgrew it."""
        dimensions = self.schema.field(VECTOR).type.list_size
        partitions = max(1, len(self) // limits.partition_size)
        with _as_os_error(self._location):
            if len(self) and KEYWORD_INDEX not in self._indexes:
                words = FTS(with_position=False)
                self._table.create_index("text", config=words, name=KEYWORD_INDEX)
            has_ngrams = NGRAMS in self.schema.names and NGRAM_INDEX not in self._indexes
            if has_ngrams and self._table.count_rows(f"{NGRAMS} is not null"):
                ngrams = FTS(with_position=False, base_tokenizer="whitespace")
                self._table.create_index(NGRAMS, config=ngrams, name=NGRAM_INDEX)
            self._table.optimize()
            if (
                partitions >= GROWTH * self.partitions
                and len(self) * dimensions >= limits.min_floats
                and dimensions % 8 == 0  # as IVF-RQ requires
            ):
                bits = IvfRq(distance_type="cosine", num_partitions=partitions)
                self._table.create_index(VECTOR, config=bits, name=f"partitions_{partitions}")
            # A rebuild or a killed run leaves an older index of vectors.
            kept = {f"partitions_{self.partitions}", KEYWORD_INDEX, NGRAM_INDEX}
            for name in self._indexes - kept:
                self._table.drop_index(name)

    def search(
        self,
        query: Vectors,
        top: int,
        *,
        keywords: str | None = None,
        exact: bool = False,
        where: str | None = None,
    ) -> list[dict[str, Any]]:
        """The rows nearest to a query, the nearest first, with `_distance`, which is 1 - cosine.

        The arguments are those of `Index.search`; but with `keywords`, only rows that have words
        of this text are found, those with the rarest first (BM25).

        Raises:
            InputError: for a condition that cannot be used.
        """
        if keywords is not None:
            return self._search_keywords(keywords, query, top, where)
        search = self._table.search(query, VECTOR)
        assert isinstance(search, LanceVectorQueryBuilder)  # because the query is an array
        search = search.distance_type("cosine")
        results = max(top, MIN_RESULTS)
        partitions = self.partitions
        if exact or results * CANDIDATES > len(self):
            search = search.bypass_vector_index()
        elif partitions:
            search = search.nprobes(probes(partitions)).refine_factor(CANDIDATES)
        return self._rows(search, ["_distance"], results, where)[:top]

    def take(self, numbers: Sequence[int], columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of these numbers from 0 on, in no certain order: the values of some columns."""
        with _as_os_error(self._location):
            found = self._table.take_offsets(list(numbers)).select(list(columns)).to_arrow()
        values = (values_of(found[name].combine_chunks()) for name in columns)
        return list(zip(*values, strict=True))

    def _search_keywords(
        self, keywords: str, query: Vectors, top: int, where: str | None
    ) -> list[dict[str, Any]]:
        indexes = self._indexes
        if KEYWORD_INDEX not in indexes:
            return []
        words: FullTextQuery = MatchQuery(keywords, "text")  # type: ignore[call-arg]
        if NGRAM_INDEX in indexes:
            ngrams = MatchQuery(ngrams_of_query(keywords), NGRAMS)  # type: ignore[call-arg]
            words = BooleanQuery([(Occur.SHOULD, words), (Occur.SHOULD, ngrams)])
        search = self._table.search(words, query_type="fts")
        assert isinstance(search, LanceFtsQueryBuilder)
        rows = self._rows(search, [VECTOR, "_score"], top, where)
        unit = query / np.linalg.norm(query)
        for row in rows:
            del row["_score"]
            row["_distance"] = 1 - float(np.asarray(row.pop(VECTOR), np.float32) @ unit)
        return rows

    def _rows(
        self,
        search: LanceVectorQueryBuilder | LanceFtsQueryBuilder,
        more_columns: list[str],
        limit: int,
        where: str | None,
    ) -> list[dict[str, Any]]:
        columns = list(self.stored_names.values())
        if where is not None:
            condition = with_stored_names(where, self.stored_names)
            search = search.where(condition, prefilter=True)
        with _as_os_error(self._location):
            try:
                found = search.select([*columns, *more_columns]).limit(limit).to_arrow()
            except Exception as error:  # a panic of LanceDB has a class of its own
                if where is None:
                    raise
                shown = {stored: in_sql(name) for name, stored in self.stored_names.items()}
                reason = _reason(error).partition(". Valid fields")[0].removesuffix(".")
                reason = re.sub(r"\bkept_\d+\b", lambda name: shown.get(name[0], name[0]), reason)
                received = f"{shortened(where)} ({reason.replace('Invalid input, ', '')})"
                remedy = f"use SQL over the columns {', '.join(shown.values())}"
                raise InputError("where", received, remedy) from error
        values = {name: values_of(found[name].combine_chunks()) for name in found.column_names}
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _in_shards(shards: Sequence[str]) -> str:
    """A condition in SQL; a shard's name has no quotes."""
    return f"shard IN ({', '.join(map(repr, shards))})"


def probes(partitions: int) -> int:
    """The number of partitions to search: all of a few, an ever smaller share of many."""
    return max(20, 4 * math.isqrt(partitions))


@contextmanager
def _as_os_error(location: str) -> Iterator[None]:
    """Raise an OSError of one line for LanceDB's errors (full disk, lost network)."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        logger.info("LanceDB failed", exc_info=True)
        remedy = "fix the storage, or build the index anew"
        raise OSError(f"{location}: received {_reason(error)!r} from LanceDB; {remedy}.") from error


def _reason(error: Exception) -> str:
    """What LanceDB says, on one line, without its authors' own paths."""
    return " ".join(str(error).split()).partition(", /")[0]
