"""A LanceDB table of vectors on disk: rows in, the rows nearest by cosine out.

A small table is searched whole; a large one through IVF-RQ: one bit for each dimension finds
candidates, and the stored float16 vectors rank them. Knows nothing of manifests or models, and of a
shard only its name.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.index import IvfRq
from lancedb.query import LanceVectorQueryBuilder

from e5.vectors import Vectors

logger = logging.getLogger(__name__)

TABLE = "documents"
VECTOR = "embedding"
COLUMNS = ("id", "text", "shard")
FLAT_BELOW = 2**24  # numbers in the table; scanning as many takes about 30 ms on one core
PARTITION = 4096  # vectors in one partition of the index
OUTGROWN = 4  # the index is rebuilt for this many times as many partitions as it has
CANDIDATES = 10  # by bits, for each result
LEAST_RESULTS = 20  # candidates are found for at least so many, even if fewer are wanted


class Table:
    """Rows of `id`, `text`, `shard` and a normalised float16 vector.

    Attributes:
        location: a path or a URI.
    """

    def __init__(self, location: str, table: lancedb.table.Table) -> None:
        """Wrap a LanceDB table; `open` and `create` are the usual ways."""
        self.location = location
        self._table = table

    @classmethod
    def open(cls, location: str) -> "Table | None":
        """The table at a location, or None. Creates the folder if it is missing.

        Raises:
            OSError: if the location cannot be read.
        """
        with _told_as_os_error(location):
            connection = lancedb.connect(location)
            if TABLE not in connection.list_tables().tables:
                return None
            return cls(location, connection.open_table(TABLE))

    @classmethod
    def create(cls, location: str, dimensions: int) -> "Table":
        """A new, empty table; replaces an older one.

        Raises:
            OSError: if the location cannot be written.
        """
        schema = pa.schema(
            dict.fromkeys(COLUMNS, pa.string()) | {VECTOR: pa.list_(pa.float16(), dimensions)}
        )
        with _told_as_os_error(location):
            connection = lancedb.connect(location)
            mode = "overwrite" if TABLE in connection.list_tables().tables else "create"
            return cls(location, connection.create_table(TABLE, schema=schema, mode=mode))

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._table.count_rows())

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows."""
        return self._table.schema

    @property
    def partitions(self) -> int:
        """Partitions of the index (the newer one if a killed run left two); 0 without index."""
        names = [index.name for index in self._table.list_indices()]
        most: int = max([0, *(int(name.rpartition("_")[2]) for name in names)])
        return most

    def shards(self) -> set[str]:
        """Names of the shards whose rows are in the table.

        Raises:
            OSError: if the table cannot be read.
        """
        names: set[str] = set()
        with _told_as_os_error(self.location):
            for batch in self._table.search().select(["shard"]).to_batches():
                names.update(batch.column("shard").unique().to_pylist())
        return names

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Add rows in one commit: all of them are added, or none.

        Raises:
            OSError: if the table cannot be written, or if `batches` raised any error.
        """
        with _told_as_os_error(self.location):
            self._table.add(pa.RecordBatchReader.from_batches(self.schema, iter(batches)))

    def update_index(self) -> None:
        """Build the index, rebuild it if the table has outgrown it, or add new rows to it.

        Raises:
            OSError: if the table cannot be written.
        """
        dimensions = self.schema.field(VECTOR).type.list_size
        partitions = max(1, len(self) // PARTITION)
        with _told_as_os_error(self.location):
            if partitions < OUTGROWN * self.partitions:
                self._table.optimize()
            elif len(self) * dimensions >= FLAT_BELOW and dimensions % 8 == 0:  # as IVF-RQ requires
                config = IvfRq(distance_type="cosine", num_partitions=partitions)
                self._table.create_index(VECTOR, config=config, name=f"partitions_{partitions}")
            newest = f"partitions_{self.partitions}"
            for index in self._table.list_indices():  # two after a rebuild or a killed run
                if index.name != newest:
                    self._table.drop_index(index.name)

    def search(self, query: Vectors, top: int, *, exact: bool) -> list[dict[str, Any]]:
        """The rows nearest to a query, the nearest first.

        Args:
            query: float32 `[dimensions]`.
            top: how many.
            exact: compare with every vector; makes no use of the index.

        Returns:
            at most `top` rows with `id`, `text` and `_distance`, which is 1 - cosine.

        Raises:
            OSError: if the table cannot be read.
        """
        search = self._table.search(query, VECTOR)
        assert isinstance(search, LanceVectorQueryBuilder)  # because the query is an array
        search = search.distance_type("cosine")
        results = max(top, LEAST_RESULTS)
        partitions = self.partitions
        if exact or results * CANDIDATES > len(self):
            search = search.bypass_vector_index()
        elif partitions:
            search = search.nprobes(probes(partitions)).refine_factor(CANDIDATES)
        with _told_as_os_error(self.location):
            rows = search.select(["id", "text", "_distance"]).limit(results).to_list()
        return rows[:top]


def probes(partitions: int) -> int:
    """How many partitions to search: all of a few, an ever smaller share of many.

    Example:
        >>> probes(10), probes(10_000)
        (20, 400)
    """
    return max(20, 4 * math.isqrt(partitions))


@contextmanager
def _told_as_os_error(location: str) -> Iterator[None]:
    """Raise an OSError of one line for LanceDB's RuntimeErrors (full disk, lost network)."""
    try:
        yield
    except RuntimeError as error:
        logger.info("LanceDB failed", exc_info=True)
        reason = str(error).splitlines()[0].partition(", /")[0]  # before its authors' own paths
        remedy = "fix the storage, or build the index anew"
        raise OSError(f"{location}: received {reason!r} from LanceDB; {remedy}.") from error
