"""A folder of shards -> an index on disk; a query -> the documents nearest to it.

Vectors are normalised before they are stored. The index's own manifest names the model and rules
that made them; shards and queries of another model are refused. Knows nothing of how vectors are
computed, and of the database only what `lance` offers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from e5.corpora.lance import VECTOR, Table
from e5.corpora.manifest import Manifest, fingerprint_of
from e5.corpora.shards import ShardFolder
from e5.corpora.storage import UNREADABLE, open_filesystem
from e5.encoder import Encoder
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors, finish

INDEX_MANIFEST = "index.json"
MAX_RESULTS = 10_000
SHARDS_AT_ONCE = 32  # added in one commit: all of them are in the index, or none
ROWS_AT_ONCE = 1024  # rows of a shard in memory at once
# These must be equal in all shards of an index. The first three make vectors comparable, the others
# decide what a shard of a given name contains.
RULES = (
    *("model", "task", "dimensions"),
    *("text_columns", "id_column", "rows_per_shard", "dtype"),
)


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
    """An index of documents.

    Attributes:
        location: a path or a URI.
        manifest: that of the shards it was built from.

    Example:
        >>> index = Index.build(ShardFolder("vectors"), "index")
        >>> [hit.id for hit in index.find(embedder, "create a temporary folder", top=1)]
        ['tempfile.TemporaryDirectory']
    """

    def __init__(self, location: str) -> None:
        """Open an index that `build` made.

        Raises:
            InputError: if there is no index.
        """
        filesystem, path = open_filesystem(location)
        manifest = Manifest.read(filesystem, f"{path}/{INDEX_MANIFEST}")
        table = None if manifest is None else Table.open(location)  # creates the folder
        if manifest is None or table is None:
            received = f"{location}, which holds no index"
            raise InputError("index", received, "build one from a folder of shards first")
        self.location = location
        self.manifest = manifest
        self._table = table

    @classmethod
    def build(cls, shards: ShardFolder, location: str) -> "Index":
        """Build an index of a folder of shards, or add the shards that an index lacks.

        Raises:
            InputError: if the folder has no manifest, or the index has another model or rules.
            OSError: if the index cannot be written.
        """
        manifest = shards.manifest()
        if manifest is None:
            received = f"{shards.location}, which holds no manifest"
            raise InputError("shards", received, "embed a corpus into it first")
        filesystem, path = open_filesystem(location)
        known = Manifest.read(filesystem, f"{path}/{INDEX_MANIFEST}")
        filesystem.create_dir(path, recursive=True)
        table = Table.open(location)
        begun = table is not None and len(table) > 0
        if begun and known is None:
            received = f"{location}, which holds a table of documents and no {INDEX_MANIFEST}"
            raise InputError("index", received, "name another folder")
        known = known if known is not None and begun else manifest
        if difference := known.difference(manifest, RULES):
            rule, ours, theirs = difference
            received = f"{shards.location}, made with {rule} {theirs}"
            remedy = f"{location} holds {ours}: name another index"
            raise InputError("shards", received, remedy)
        known = known.with_files(manifest.files)
        if not begun:
            Table.create(location, manifest.dimensions)
        known.write(filesystem, f"{path}/{INDEX_MANIFEST}")
        index = cls(location)
        index._add(shards)
        return index

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._table)

    @property
    def is_flat(self) -> bool:
        """Whether a search compares the query with every vector."""
        return self._table.partitions == 0

    @property
    def task(self) -> str:
        """Of queries: the documents' own, or web search where they have none."""
        return self.manifest.task or DEFAULT_TASK

    @property
    def dimensions(self) -> int:
        """Of its vectors."""
        return self.manifest.dimensions

    def find(
        self, encoder: Encoder, text: str, *, task: str | None = None, top: int = 10
    ) -> list[Hit]:
        """The documents nearest to a text query.

        Args:
            encoder: one of the model that made the index's vectors.
            text: the query.
            task: the query's task; None: that of the documents, or web search if they have none.
            top: how many.

        Returns:
            at most `top` documents, the best first.

        Raises:
            InputError: for an encoder of another model, a text that cannot be embedded, or `top`
                out of range.
            OSError: if the index cannot be read.
        """
        if not 1 <= top <= MAX_RESULTS:
            raise InputError("top", str(top), f"use 1 to {MAX_RESULTS}")
        self.check_model(encoder.name)
        query = encoder.encode_query(
            text,
            task=self.task if task is None else task,
            normalize=True,
            dimensions=self.dimensions,
        )
        return self.search(query, top)

    def check_model(self, model: str) -> None:
        """Refuse queries of another model.

        Raises:
            InputError: naming both models.
        """
        if fingerprint_of(model) != self.manifest.fingerprint:
            remedy = (
                f"this index was made by {self.manifest.model}: search with the same weights, "
                "E5_DTYPE (float16 where a GPU made it) and E5_MAX_LENGTH"
            )
            raise InputError("model", model, remedy)

    def search(self, query: Vectors, top: int, *, exact: bool = False) -> list[Hit]:
        """The documents nearest to a query's vector.

        Args:
            query: float32 `[dimensions]`.
            top: how many.
            exact: compare with every vector; makes no use of the IVF-RQ index.

        Returns:
            at most `top` documents, the best first.

        Raises:
            OSError: if the index cannot be read.
        """
        rows = self._table.search(query, top, exact=exact)
        return [Hit(row["id"], 100 * (1 - row["_distance"]), row["text"]) for row in rows]

    def _add(self, shards: ShardFolder) -> None:
        there = self._table.shards()
        missing = [name for name in shards.shard_names() if name not in there]
        with tqdm(missing, "adding", unit="shard", delay=2, disable=None) as bar:
            for i in range(0, len(missing), SHARDS_AT_ONCE):
                part = missing[i : i + SHARDS_AT_ONCE]
                unreadable: list[InputError] = []  # LanceDB does not keep an exception's type
                try:
                    self._table.add(
                        b for name in part for b in self._read(shards, name, unreadable)
                    )
                except OSError as error:
                    raise (unreadable[0] if unreadable else error) from error
                bar.update(len(part))
        self._table.update_index()

    def _read(
        self, shards: ShardFolder, name: str, unreadable: list[InputError]
    ) -> Iterator[pa.RecordBatch]:
        """A shard's rows in the table's schema."""
        filesystem, path = open_filesystem(shards.location)
        try:
            with filesystem.open_input_file(f"{path}/{name}") as file:
                for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                    yield self._as_rows(batch, name)
        except (*UNREADABLE, KeyError) as error:
            remedy = "delete it, then embed the corpus again"
            unreadable.append(InputError(name, f"a shard that cannot be read ({error})", remedy))
            raise

    def _as_rows(self, batch: pa.RecordBatch, shard: str) -> pa.RecordBatch:
        numbers = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
        vectors = numbers.reshape(len(batch), -1).astype(np.float32)
        unit = finish(vectors, None, normalize=True).astype(np.float16)
        columns = [
            *(batch.column(name) for name in ("id", "text")),
            pa.array([shard] * len(batch), pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), unit.shape[1]),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._table.schema)
