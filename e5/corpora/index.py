"""A folder of shards -> an index on disk that mirrors it; a query -> the nearest documents.

Vectors are normalised before they are stored. The index's own manifest names the model and rules
that made them, and the shards that are in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from e5.corpora.filesystem import open_filesystem
from e5.corpora.hits import Hit, TableRow, best_of_each, merge_rankings
from e5.corpora.lance import IndexLimits, Table
from e5.corpora.manifest import ROW_RULES, VECTOR_RULES, Manifest, fingerprint_of
from e5.corpora.shard import VECTOR
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.vector_encoding import decode_vectors
from e5.encoder import Encoder
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors, finish

INDEX_MANIFEST = "index.json"
MAX_RESULTS = 10_000
LEAST_RANKED = 100  # results of each ranking, at least, where two rankings are merged
BATCH_ROWS = 1024  # that are converted and written at once


class Index:
    """An index of documents.

    Attributes:
        location: a path or a URI.
        manifest: that of the shards it was built from; `shards` are those that it holds.

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
        self.location, self.manifest, self._table = location, manifest, table

    @classmethod
    def build(
        cls, shards: ShardFolder, location: str, limits: IndexLimits | None = None
    ) -> "Index":
        """Make an index hold the documents of a folder of shards, and nothing else.

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
        if table is None or not len(table):
            known = replace(manifest, shards={})
            schema = shards.schema
            columns = schema.remove(schema.get_field_index(VECTOR))
            Table.create(location, columns, manifest.dimensions)
        if known is None:
            received = f"{location}, which holds a table of documents and no {INDEX_MANIFEST}"
            raise InputError("index", received, "name another folder")
        if difference := known.difference(manifest, VECTOR_RULES + ROW_RULES):
            rule, ours, theirs = difference
            received = f"{shards.location}, made with {rule} {theirs}"
            remedy = f"{location} holds {ours}: name another index"
            raise InputError("shards", received, remedy)
        replace(known, files={}).write(filesystem, f"{path}/{INDEX_MANIFEST}")
        index = cls(location)
        index._update(shards, limits or IndexLimits())
        return index

    def __len__(self) -> int:
        """The number of documents, or of passages."""
        return len(self._table)

    @property
    def is_flat(self) -> bool:
        """Whether a search compares the query with every vector."""
        return self._table.partitions == 0

    @property
    def task(self) -> str:
        """The default task of queries: that of the documents, or web search if they have none."""
        return self.manifest.task or DEFAULT_TASK

    @property
    def dimensions(self) -> int:
        """The dimensions of its vectors."""
        return self.manifest.dimensions

    def find(
        self,
        encoder: Encoder,
        text: str,
        *,
        task: str | None = None,
        top: int = 10,
        where: str | None = None,
        hybrid: bool = False,
        per_document: bool = False,
    ) -> list[Hit]:
        """The documents nearest to a text query, the best first.

        Args:
            encoder: an encoder of the model that made the index's vectors.
            text: the query.
            task: the query's task; None for the index's `task`.
            top: the most documents to return.
            where: a condition in SQL over columns; only documents that meet it are ranked.
            hybrid: rank by the words of the query too.
            per_document: return only the best passage of each document.

        Raises:
            InputError: for an encoder of another model, a text that cannot be embedded, `top` out
                of range, or a condition that cannot be used.
            OSError: if the index cannot be read.
        """
        (hits,) = self.find_all(
            encoder,
            [text],
            task=task,
            top=top,
            where=where,
            hybrid=hybrid,
            per_document=per_document,
        )
        return hits

    def find_all(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        *,
        task: str | None = None,
        top: int = 10,
        where: str | None = None,
        hybrid: bool = False,
        per_document: bool = False,
    ) -> list[list[Hit]]:
        """What `find` returns for each of many queries, which are embedded together."""
        self.check_model(encoder.name)
        if not 1 <= top <= MAX_RESULTS:
            raise InputError("top", str(top), f"use 1 to {MAX_RESULTS}")
        task = self.task if task is None else task
        vectors = encoder.encode_query(list(texts), task=task, dimensions=self.dimensions)
        search = partial(self.search, top=top, where=where, per_document=per_document)
        pairs = zip(texts, vectors, strict=True)
        return [search(vector, keywords=text if hybrid else None) for text, vector in pairs]

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

    def search(
        self,
        query: Vectors,
        top: int,
        *,
        exact: bool = False,
        where: str | None = None,
        keywords: str | None = None,
        per_document: bool = False,
    ) -> list[Hit]:
        """The documents nearest to a query's vector, the best first.

        Args:
            query: float32 `[dimensions]`.
            top: the most documents to return.
            exact: compare with every vector, without the IVF-RQ index.
            where: as for `find`.
            keywords: a text whose words make a second ranking; both are merged by reciprocal rank.
            per_document: as for `find`.

        Raises:
            InputError: for a condition that cannot be used.
            OSError: if the index cannot be read.
        """
        limit = top if keywords is None else max(top, LEAST_RANKED)
        while True:
            rows: Sequence[TableRow] = self._table.search(query, limit, exact=exact, where=where)
            has_all = len(rows) < limit
            if keywords is not None:
                found = self._table.search(query, limit, keywords=keywords, where=where)
                rows = merge_rankings(found, rows)
            if per_document and self.manifest.passages is not None:
                rows = best_of_each(rows)
            if len(rows) >= top or has_all or limit >= len(self):
                return [Hit.from_row(row) for row in rows[:top]]
            limit *= 4

    def _update(self, shards: ShardFolder, limits: IndexLimits) -> None:
        held, current = dict(self.manifest.shards), shards.shards()
        changed = sorted(name for name in current if current[name] != held.get(name))
        is_new = not held and not len(self)
        with tqdm(changed, "adding", unit="shard", delay=2, disable=None) as bar:
            for i in range(0, len(changed), limits.shards_per_commit):
                names = changed[i : i + limits.shards_per_commit]
                errors: list[InputError] = []  # LanceDB does not keep an exception's type
                batches = (b for name in names for b in self._batches(shards, name, errors))
                try:
                    self._table.replace(batches, names, is_new=is_new)
                except OSError as error:
                    raise (errors[0] if errors else error) from error
                held |= {name: current[name] for name in names}
                self._write_manifest(held)
                bar.update(len(names))
        if removed := sorted(held.keys() - current.keys()):
            self._table.remove(removed)
            self._write_manifest(current)
        self._table.update_index(limits)  # even without changes: a killed run may not have done it

    def _write_manifest(self, shards: dict[str, str]) -> None:
        self.manifest = replace(self.manifest, shards=shards)
        filesystem, path = open_filesystem(self.location)
        self.manifest.write(filesystem, f"{path}/{INDEX_MANIFEST}")

    def _batches(
        self, shards: ShardFolder, name: str, errors: list[InputError]
    ) -> Iterator[pa.RecordBatch]:
        """A shard's rows in the table's schema."""
        try:
            shard = shards.read(name)
        except InputError as error:
            errors.append(error)
            raise
        if shard is not None:  # else it has just been deleted
            schema = self._table.schema
            for batch in shard.table.to_batches(BATCH_ROWS):
                elements = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
                stored = elements.reshape(len(batch), -1)
                vectors = finish(decode_vectors(stored, self.manifest.dtype), None, normalize=True)
                flat = pa.array(vectors.astype(np.float16).ravel())
                made = {
                    "shard": pa.array([name] * len(batch), pa.string()),
                    VECTOR: pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                }
                columns = [
                    made[field] if field in made else batch.column(field) for field in schema.names
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
