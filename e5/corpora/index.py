"""A folder of shards -> an index on disk that mirrors it; a query -> the nearest documents.

Vectors are normalised before they are stored. The index's own manifest names the model and rules
that made them, and the shards that are in it. Knows nothing of how vectors are computed, and of the
database only what `lance` offers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from e5.corpora.filesystem import READ_ERRORS, open_filesystem
from e5.corpora.hits import Hit, TableRow, best_of_each, merge_rankings
from e5.corpora.lance import Table
from e5.corpora.manifest import ROW_RULES, VECTOR_RULES, Manifest, fingerprint_of
from e5.corpora.shard import VECTOR, unreadable_shard
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.vector_encoding import Dtype, decode_vectors
from e5.encoder import Encoder
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors, finish

INDEX_MANIFEST = "index.json"
MAX_RESULTS = 10_000
RANKED = 100  # results of each kind of search, at least, that are merge_rankings
SHARDS_AT_ONCE = 32  # brought in by one commit: all of them are in the index, or none
ROWS_AT_ONCE = 1024  # rows of a shard in memory at once


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
        self.location = location
        self.manifest = manifest
        self._table = table

    @classmethod
    def build(cls, shards: ShardFolder, location: str) -> "Index":
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
        begun = table is not None and len(table) > 0
        if begun and known is None:
            received = f"{location}, which holds a table of documents and no {INDEX_MANIFEST}"
            raise InputError("index", received, "name another folder")
        known = known if known is not None and begun else replace(manifest, shards={})
        if difference := known.difference(manifest, VECTOR_RULES + ROW_RULES):
            rule, ours, theirs = difference
            received = f"{shards.location}, made with {rule} {theirs}"
            remedy = f"{location} holds {ours}: name another index"
            raise InputError("shards", received, remedy)
        if not begun:
            schema = shards.layout.schema
            columns = schema.remove(schema.get_field_index(VECTOR))
            Table.create(location, columns, manifest.dimensions)
        replace(known, files={}).write(filesystem, f"{path}/{INDEX_MANIFEST}")
        index = cls(location)
        index._update(shards)
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
        """Of queries: the documents' own, or web search where they have none."""
        return self.manifest.task or DEFAULT_TASK

    @property
    def dimensions(self) -> int:
        """Of its vectors."""
        return self.manifest.dimensions

    def find(
        self, encoder: Encoder, text: str, *, task: str | None = None, top: int = 10, **how: Any
    ) -> list[Hit]:
        """The documents nearest to a text query.

        Args:
            encoder: one of the model that made the index's vectors.
            text: the query.
            task: the query's task; None: that of the documents, or web search if they have none.
            top: how many.
            how: `where`, `hybrid` and `per_document` as for `search`.

        Returns:
            at most `top` documents, the best first.

        Raises:
            InputError: for an encoder of another model, a text that cannot be embedded, `top` out
                of range, or a condition that cannot be used.
            OSError: if the index cannot be read.
        """
        return self.find_all(encoder, [text], task=task, top=top, **how)[0]

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
        """As `find`, for many queries, which are embedded together.

        Raises:
            InputError, OSError: as for `find`.
        """
        self.check_model(encoder.name)
        if not 1 <= top <= MAX_RESULTS:
            raise InputError("top", str(top), f"use 1 to {MAX_RESULTS}")
        task = self.task if task is None else task
        vectors = encoder.encode_query(list(texts), task=task, dimensions=self.dimensions)
        return [
            self.search(
                vector,
                top,
                where=where,
                words=text if hybrid else None,
                per_document=per_document,
            )
            for text, vector in zip(texts, vectors, strict=True)
        ]

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
        words: str | None = None,
        per_document: bool = False,
    ) -> list[Hit]:
        """The documents nearest to a query's vector.

        Args:
            query: float32 `[dimensions]`.
            top: how many.
            exact: compare with every vector; makes no use of the IVF-RQ index.
            where: a condition in SQL over a document's columns; only those that meet it are ranked.
            words: the query's text: its words are looked for too, and both rankings are merged by
                reciprocal rank.
            per_document: only the best passage of each document.

        Returns:
            at most `top` documents, the best first.

        Raises:
            InputError: for a condition that cannot be used.
            OSError: if the index cannot be read.
        """
        wanted = top if words is None else max(top, RANKED)
        while True:
            rows: Sequence[TableRow] = self._table.search(query, wanted, exact=exact, where=where)
            has_all = len(rows) < wanted
            if words is not None:
                by_words = self._table.search_words(words, query, wanted, where=where)
                rows = merge_rankings(by_words, rows)
            if per_document and self.manifest.passages is not None:
                rows = best_of_each(rows)
            if len(rows) >= top or has_all or wanted >= len(self):
                return [Hit.of(row) for row in rows[:top]]
            wanted *= 4

    def _update(self, shards: ShardFolder) -> None:
        there, wanted = dict(self.manifest.shards), shards.shards()
        changed = sorted(name for name in wanted if wanted[name] != there.get(name))
        is_new = not there and not len(self)  # then no id can be in it: adding is quicker
        with tqdm(changed, "adding", unit="shard", delay=2, disable=None) as bar:
            for i in range(0, len(changed), SHARDS_AT_ONCE):
                part = changed[i : i + SHARDS_AT_ONCE]
                broken: list[InputError] = []  # LanceDB does not keep an exception's type
                try:
                    batches = (b for name in part for b in self._read(shards, name, broken))
                    if is_new:
                        self._table.add(batches)
                    else:
                        self._table.replace(batches, part)
                except OSError as error:
                    raise (broken[0] if broken else error) from error
                there |= {name: wanted[name] for name in part}
                self._note(there)
                bar.update(len(part))
        gone = sorted(there.keys() - wanted.keys())
        if gone:
            self._table.remove(gone)
            self._note({name: there[name] for name in wanted})
        self._table.update_index()  # which a killed run may not have come to

    def _note(self, shards: dict[str, str]) -> None:
        self.manifest = replace(self.manifest, shards=shards)
        filesystem, path = open_filesystem(self.location)
        self.manifest.write(filesystem, f"{path}/{INDEX_MANIFEST}")

    def _read(
        self, shards: ShardFolder, name: str, broken: list[InputError]
    ) -> Iterator[pa.RecordBatch]:
        """A shard's rows in the table's schema."""
        filesystem, path = open_filesystem(shards.location)
        try:
            with filesystem.open_input_file(f"{path}/{name}") as file:
                for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                    yield self._as_rows(batch, name)
        except (*READ_ERRORS, KeyError) as error:
            broken.append(unreadable_shard(name, error))
            raise

    def _as_rows(self, batch: pa.RecordBatch, shard: str) -> pa.RecordBatch:
        schema = self._table.schema
        numbers = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
        dtype: Dtype = self.manifest.dtype
        vectors = decode_vectors(numbers.reshape(len(batch), -1), dtype)
        unit = finish(vectors, None, normalize=True).astype(np.float16)
        own = {
            "shard": pa.array([shard] * len(batch), pa.string()),
            VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), unit.shape[1]),
        }
        columns = [own[name] if name in own else batch.column(name) for name in schema.names]
        return pa.RecordBatch.from_arrays(columns, schema=schema)
