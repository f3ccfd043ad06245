"""Shards -> an index on disk, by LanceDB; vectors -> the documents nearest to them by cosine.

Vectors are normalised before they are stored. A small table is searched whole; a large one through
IVF-RQ: a bit for each dimension finds candidates, the stored float16 vectors put them in order.
Knows nothing of texts to embed or of models, but the name of the one that made its vectors.
"""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.index import IvfRq
from lancedb.query import LanceVectorQueryBuilder
from tqdm import tqdm

from e5.errors import InputError
from e5.shards import MANIFEST, check_files, fingerprint, read_manifest, shard_names
from e5.storage import UNREADABLE, open_filesystem, write_whole
from e5.vectors import Vectors, finish

logger = logging.getLogger(__name__)

INDEX_MANIFEST = "index.json"
TABLE = "documents"
VECTOR = "embedding"
SHARDS_AT_ONCE = 32  # added in one commit: all of them are in the index, or none
ROWS_AT_ONCE = 1024  # held in memory
FLAT_BELOW = 2**24  # numbers; a scan of as many takes about 30 ms on one core
PARTITION = 4096  # vectors of one partition of the index
OUTGROWN = 4  # times as many partitions as the index has: then it is made anew
# What must be alike in all of an index's shards. All but the first three decide what a shard of a
# name holds.
RULES = (
    *("model", "task", "dimensions"),
    *("text_columns", "id_column", "rows_per_shard", "dtype"),
)
CANDIDATES = 10  # for each result, by their bits
LEAST_RESULTS = 20  # that candidates are found for, however few are wanted


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: its id.
        score: cosine x 100 with the query.
        text: its text.
    """

    id: str
    score: float
    text: str


class Index:
    """A LanceDB table of documents.

    Attributes:
        location: a path or a URI.
        manifest: of the shards it was built from.
    """

    def __init__(self, location: str) -> None:
        """Open what `build` made.

        Raises:
            InputError: where there is no index.
        """
        manifest = read_manifest(location, INDEX_MANIFEST)
        table = None if manifest is None else _open_table(location)  # which would make the folder
        if manifest is None or table is None:
            received = f"{location}, which holds no index"
            raise InputError("INDEX", received, "make one with ./scripts/build_index OUT INDEX")
        self.location = location
        self.manifest = manifest
        self._table = table

    @classmethod
    def build(cls, shards: str, location: str) -> "Index":
        """Make an index of a folder of shards, or add to it those that it lacks.

        Raises:
            InputError: where there are no shards, or the index holds vectors of another kind.
            OSError: where the index cannot be written.
        """
        manifest = read_manifest(shards)
        if manifest is None:
            received = f"{shards}, which holds no {MANIFEST}"
            raise InputError("OUT", received, "make one with ./scripts/embed_corpus IN OUT")
        filesystem, path = open_filesystem(location)
        known = read_manifest(location, INDEX_MANIFEST)
        filesystem.create_dir(path, recursive=True)
        table = _open_table(location)
        begun = table is not None and table.count_rows() > 0
        if begun and known is None:
            received = f"{location}, which holds a table {TABLE} and no {INDEX_MANIFEST}"
            raise InputError("INDEX", received, "name another folder")
        known = known if known is not None and begun else manifest
        _check_alike(manifest, known, shards, location)
        known = known | {"files": known["files"] | manifest["files"]}
        columns = dict.fromkeys(("id", "text", "shard"), pa.string())
        schema = pa.schema(columns | {VECTOR: pa.list_(pa.float16(), manifest["dimensions"])})
        if not begun:
            mode = "create" if table is None else "overwrite"
            with _told_as_os_error(location):
                lancedb.connect(location).create_table(TABLE, schema=schema, mode=mode)
        content = json.dumps(known, indent=1, ensure_ascii=False)
        write_whole(filesystem, f"{path}/{INDEX_MANIFEST}", content.encode())
        index = cls(location)
        index._add(shards)
        return index

    def __len__(self) -> int:
        """Documents in it."""
        return int(self._table.count_rows())

    @property
    def is_flat(self) -> bool:
        """Whether a search looks at every vector."""
        return self._partitions() == 0

    def check_model(self, model: str) -> None:
        """Refuse queries of another model.

        Raises:
            InputError: naming both.
        """
        if fingerprint(model) != fingerprint(self.manifest["model"]):
            remedy = (
                f"this index was made by {self.manifest['model']}: search with the same weights, "
                "E5_DTYPE (float16 where a GPU made it) and E5_MAX_LENGTH"
            )
            raise InputError("E5_WEIGHTS", model, remedy)

    def search(self, query: Vectors, top: int, *, exact: bool = False) -> list[Hit]:
        """The documents nearest to a query.

        Args:
            query: float32 `[dimensions]`.
            top: how many.
            exact: look at every vector, index or not.

        Returns:
            at most `top` documents, the best first.

        Raises:
            OSError: where the index cannot be read.
        """
        search = self._table.search(query, VECTOR)
        assert isinstance(search, LanceVectorQueryBuilder)  # which follows from the query's type
        search = search.distance_type("cosine")
        results = max(top, LEAST_RESULTS)
        partitions = self._partitions()
        if exact or results * CANDIDATES > len(self):
            search = search.bypass_vector_index()
        elif partitions:
            search = search.nprobes(_probes(partitions)).refine_factor(CANDIDATES)
        with _told_as_os_error(self.location):
            rows = search.select(["id", "text", "_distance"]).limit(results).to_list()
        return [Hit(row["id"], 100 * (1 - row["_distance"]), row["text"]) for row in rows[:top]]

    def _add(self, shards: str) -> None:
        there = self._shards()
        missing = [name for name in shard_names(shards) if name not in there]
        with tqdm(missing, "adding", unit="shard", delay=2, disable=None) as bar:
            for i in range(0, len(missing), SHARDS_AT_ONCE):
                part = missing[i : i + SHARDS_AT_ONCE]
                unreadable: list[InputError] = []  # LanceDB loses the kind of an exception
                batches = (b for name in part for b in self._read(shards, name, unreadable))
                try:
                    with _told_as_os_error(self.location):
                        reader = pa.RecordBatchReader.from_batches(self._table.schema, batches)
                        self._table.add(reader)
                except OSError as error:
                    raise (unreadable[0] if unreadable else error) from error
                bar.update(len(part))
        with _told_as_os_error(self.location):
            self._order()

    def _order(self) -> None:
        """Make the index, make it anew where the table has outgrown it, or add to it."""
        dimensions = self.manifest["dimensions"]
        partitions = max(1, len(self) // PARTITION)
        if partitions < OUTGROWN * self._partitions():
            self._table.optimize()
        elif len(self) * dimensions >= FLAT_BELOW and dimensions % 8 == 0:  # as IVF-RQ needs
            config = IvfRq(distance_type="cosine", num_partitions=partitions)
            self._table.create_index(VECTOR, config=config, name=f"partitions_{partitions}")
        newest = f"partitions_{self._partitions()}"
        for index in self._table.list_indices():  # more than one after this, or after a kill
            if index.name != newest:
                self._table.drop_index(index.name)

    def _partitions(self) -> int:
        """Of the index, the newest if a kill has left an older one; 0 where there is none."""
        names = [index.name for index in self._table.list_indices()]
        most: int = max([0, *(int(name.rpartition("_")[2]) for name in names)])
        return most

    def _shards(self) -> set[str]:
        names: set[str] = set()
        with _told_as_os_error(self.location):
            for batch in self._table.search().select(["shard"]).to_batches():
                names.update(batch.column("shard").unique().to_pylist())
        return names

    def _read(
        self, shards: str, name: str, unreadable: list[InputError]
    ) -> Iterator[pa.RecordBatch]:
        """A shard's rows as the table has them."""
        try:
            yield from self._rows(shards, name)
        except (*UNREADABLE, KeyError) as error:
            remedy = "delete it, then run ./scripts/embed_corpus again"
            unreadable.append(InputError(name, f"a shard that cannot be read ({error})", remedy))
            raise

    def _rows(self, shards: str, name: str) -> Iterator[pa.RecordBatch]:
        filesystem, path = open_filesystem(shards)
        with filesystem.open_input_file(f"{path}/{name}") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                numbers = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
                vectors = numbers.reshape(len(batch), -1).astype(np.float32)
                unit = finish(vectors, dimensions=None, normalize=True).astype(np.float16)
                columns = [
                    *(batch.column(name) for name in ("id", "text")),
                    pa.array([name] * len(batch), pa.string()),
                    pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), unit.shape[1]),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=self._table.schema)


def _probes(partitions: int) -> int:
    """How many partitions to look into: all of a few, ever fewer of many."""
    return max(20, 4 * math.isqrt(partitions))


def _check_alike(
    manifest: dict[str, Any], known: dict[str, Any], shards: str, location: str
) -> None:
    """Refuse shards that were made otherwise than those of the index."""
    for name in RULES:
        theirs, ours = manifest[name], known[name]
        if name == "model":
            theirs, ours = fingerprint(theirs), fingerprint(ours)
        if theirs != ours:
            received = f"{shards}, made with {name} {manifest[name]!r}"
            remedy = f"{location} holds {known[name]!r}: name another INDEX"
            raise InputError("OUT", received, remedy)
    check_files(known["files"], manifest["files"])


def _open_table(location: str) -> lancedb.table.Table | None:
    """The table of documents; None where there is none."""
    with _told_as_os_error(location):
        connection = lancedb.connect(location)
        return connection.open_table(TABLE) if TABLE in connection.list_tables().tables else None


@contextmanager
def _told_as_os_error(location: str) -> Iterator[None]:
    """What LanceDB says of a full disk or a lost network is a RuntimeError of many lines."""
    try:
        yield
    except RuntimeError as error:
        logger.info("LanceDB failed", exc_info=True)
        reason = str(error).splitlines()[0].partition(", /")[0]  # then its authors' own folders
        remedy = "mend the place, or build the index anew"
        raise OSError(f"{location}: received {reason!r} from LanceDB; {remedy}.") from error
