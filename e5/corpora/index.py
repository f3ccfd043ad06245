"""A folder of shards -> an index on disk that mirrors it; a query -> the nearest documents.

Vectors are normalised before they are stored. The index's own manifest names the model and rules
that made them, and the shards that are in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from pyarrow import fs
from tqdm import tqdm

from e5.corpora.filesystem import open_filesystem
from e5.corpora.lance import NGRAMS, IndexLimits, Table
from e5.corpora.manifest import ROW_RULES, VECTOR_RULES, Manifest, fingerprint_of
from e5.corpora.ngrams import ngrams_of_document
from e5.corpora.shard import VECTOR, as_matrix, decode_vectors
from e5.corpora.shard_folder import ShardFolder
from e5.encoder import Encoder
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors, finish

INDEX_MANIFEST = "index.json"
MAX_RESULTS = 10_000
MIN_RANKED = 100  # results of each ranking, at least, where two rankings are merged
BATCH_ROWS = 1024  # rows that are converted and written at once
RANK_OFFSET = 60  # of reciprocal rank fusion: Cormack, Clarke and Buettcher (2009)

TableRow: TypeAlias = Mapping[str, Any]  # values by column, and `_distance`


@dataclass(frozen=True)
class Hit:
    """A document that a search found, or a passage of one."""

    id: str
    score: float  # cosine x 100 with the query
    text: str
    values: dict[str, Any] = field(default_factory=dict)  # of its other columns

    def as_dict(self) -> dict[str, Any]:
        """The id, score, text and values on one level, for JSON.

        Example:
            >>> Hit("7", 61.2, "Snow.", {"year": 2024}).as_dict()
            {'id': '7', 'score': 61.2, 'text': 'Snow.', 'year': 2024}
        """
        return {"id": self.id, "score": self.score, "text": self.text, **self.values}


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
        """Open an index that `build` made; an InputError if there is none."""
        manifest = Manifest.read(*_manifest_file(location))
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
        known = Manifest.read(*_manifest_file(location))
        filesystem, path = open_filesystem(location)
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
            remedy = f"name another index: {location} was made with {ours}"
            raise InputError("shards", received, remedy)
        replace(known, files={}).write(*_manifest_file(location))
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
            hybrid: rank by the words of the query (BM25) as well as by its vector.
            per_document: return only the best passage of each document.

        Raises:
            InputError: for an encoder of another model, a text that cannot be embedded, `top` out
                of range, or a condition that cannot be used.
            OSError: if the index cannot be read.
        """
        find = partial(self.find_all, encoder, [text], hybrid=hybrid, per_document=per_document)
        return find(task=task, top=top, where=where)[0]

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
        if not 1 <= top <= MAX_RESULTS:
            raise InputError("top", str(top), f"use 1 to {MAX_RESULTS}")
        task = self.task if task is None else task
        try:
            vectors = encoder.encode_query(list(texts), task=task, dimensions=self.dimensions)
        except InputError as error:
            if error.field == "dimensions":
                self.check_model(encoder.name)  # another model is the better reason
            raise
        self.check_model(encoder.name)  # afterwards: then a remote service has said it
        search = partial(self.search, top=top, where=where, per_document=per_document)
        pairs = zip(texts, vectors, strict=True)
        return [search(vector, keywords=text if hybrid else None) for text, vector in pairs]

    def check_model(self, model: str) -> None:
        """Refuse queries of another model with an InputError that names both."""
        if fingerprint_of(model) != self.manifest.fingerprint:
            remedy = (
                f"this index was made by {self.manifest.model}: search with the same weights, "
                "E5_ENGINE, E5_DTYPE (float16 where a card made it) and E5_MAX_LENGTH"
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
        """The documents nearest to a query's vector, float32 `[dimensions]`; otherwise as `find`.

        With `exact` the query is compared with every vector, without the IVF-RQ index. The words of
        `keywords` make a second ranking; both are merged by reciprocal rank.
        """
        limit = top if keywords is None else max(top, MIN_RANKED)
        while True:
            rows: Sequence[TableRow] = self._table.search(query, limit, exact=exact, where=where)
            has_all = len(rows) < limit
            if keywords is not None:
                found = self._table.search(query, limit, keywords=keywords, where=where)
                rows = merge_rankings(found, rows)
            if per_document and self.manifest.passages is not None:
                rows = best_of_each(rows)
            if len(rows) >= top or has_all or limit >= len(self):
                return [self._hit(row) for row in rows[:top]]
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
        self.manifest.write(*_manifest_file(self.location))

    def _batches(
        self, shards: ShardFolder, name: str, errors: list[InputError]
    ) -> Iterator[pa.RecordBatch]:
        """A shard's rows in the table's schema."""
        try:
            shard = shards.read(name)
        except InputError as error:
            errors.append(error)
            raise
        for batch in () if shard is None else shard.table.to_batches(BATCH_ROWS):
            vectors = decode_vectors(as_matrix(batch.column(VECTOR)), self.manifest.dtype)
            flat = pa.array(finish(vectors, None, normalize=True).astype(np.float16).ravel())
            ngrams = map(ngrams_of_document, batch.column("text").to_pylist())
            made = {
                "shard": pa.array([name] * len(batch), pa.string()),
                NGRAMS: pa.array(ngrams, pa.string()),
                VECTOR: pa.FixedSizeListArray.from_arrays(flat, self.dimensions),
            }
            made |= {name: batch.column(own) for own, name in self._table.stored_names.items()}
            yield pa.RecordBatch.from_pydict(made, schema=self._table.schema)

    def _hit(self, row: TableRow) -> Hit:
        """A row under its columns' own names; one of them may be `_distance`."""
        stored = self._table.stored_names
        values = {own: row[stored[own]] for own in stored if own not in ("id", "text")}
        return Hit(row["id"], 100 * (1 - row["_distance"]), row["text"], values)


def _manifest_file(location: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = open_filesystem(location)
    return filesystem, f"{path}/{INDEX_MANIFEST}"


def merge_rankings(*rankings: Sequence[TableRow]) -> list[TableRow]:
    """Rows of several rankings as one, by the sum of their reciprocal ranks."""
    rows = {row["id"]: row for ranking in rankings for row in ranking}
    scores = dict.fromkeys(rows, 0.0)
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row["id"]] += 1 / (RANK_OFFSET + rank)
    return sorted(rows.values(), key=lambda row: -scores[row["id"]])


def best_of_each(rows: Sequence[TableRow]) -> list[TableRow]:
    """The first row of each document, in order."""
    by_document: dict[str, TableRow] = {}
    for row in rows:
        by_document.setdefault(row["document"], row)
    return list(by_document.values())
