"""Does units in one process: rows of a corpus and vectors that shards hold -> a unit's shard.

One unit is computed while the next is read and tokenised and the last one written, so that the
engine is never idle.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cache
from typing import TypeVar

import numpy as np

from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import DeadLetter, Document, Passage
from e5.corpora.plan import Unit
from e5.corpora.shard import Shard, StoredVectors, encode_vectors
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.synchronize import Model, Summary
from e5.embedder import Embedder
from e5.tokenizer import TokenIds
from e5.vectors import Vectors, finish

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Loop:
    """Does units in this process, one after another. A `Runner`.

    Example:
        >>> loop = Loop(lambda: Embedder.load(Settings(weights="weights/e5-mini")))
        >>> loop.describe().dimensions
        192
    """

    def __init__(self, load: Callable[[], Embedder]) -> None:
        self._load = cache(load)

    def describe(self) -> Model:
        """The model that computes; loads it if needed, and raises what `load` raises."""
        embedder = self._load()
        return Model(embedder.name, embedder.dimensions)

    def embed_units(
        self, units: Iterable[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Generator[Summary, None, None]:
        """Do units of a corpus in a folder; yields the summary of each finished unit."""
        embedder = self._load()
        with Reading(corpus) as reading:

            def prepare(unit: Unit) -> UnitWork:
                work = UnitWork(unit, reading, folder, embedder)
                work.tokenize(range(len(work.documents)))
                return work

            def computed() -> Generator[UnitWork, None, None]:
                waited = time.perf_counter()
                with closing(_one_ahead(prepare, units)) as prepared:
                    for work in prepared:
                        work.summary.seconds["wait"] = time.perf_counter() - waited
                        work.compute()
                        yield work
                        waited = time.perf_counter()

            # Closed here also after a failure: a garbage collector that ends threads may hang.
            with closing(computed()) as works:
                yield from _one_ahead(UnitWork.write, works)


class UnitWork:
    """A unit while it is done: it is read, then tokenised and computed, then written."""

    def __init__(
        self, unit: Unit, reading: Reading, folder: ShardFolder, embedder: Embedder
    ) -> None:
        """Read the unit's rows, and the vectors that shards hold of them."""
        started = time.perf_counter()
        self._unit, self._folder, self._embedder = unit, folder, embedder
        self.summary = Summary()  # figures so far
        shard = folder.read(unit.shard)
        self._kept, self._drops = shard, False  # documents that stay, and whether others do not
        self.documents = self._read_documents(reading, shard)  # that the shard lacks
        # The passages of each document; one, the whole, if documents are not split.
        self._passages = [[Passage(doc.text, 0, len(doc.text))] for doc in self.documents]
        self._stored: dict[str, StoredVectors] = {}  # by text: vectors that shards hold
        self._tokenized: dict[str, TokenIds] = {}  # by text: what is computed next
        self._computed: list[tuple[list[str], Vectors]] = []  # texts, and their vectors
        self._reasons: dict[str, str] = {}  # by text: why it has no vector
        if shard is not None:
            is_dropped = np.isin(shard.entries["content"], unit.drop)
            if is_dropped.any():
                self._kept, self._drops = shard.select(~is_dropped), True
                self._add_stored(shard.select(is_dropped))
        for source in unit.sources:
            other = ShardFolder(source.folder).read(source.shard)
            if other is not None:
                self._add_stored(other.select(np.isin(other.entries["text"], source.texts)))
        self.summary.seconds["read"] = time.perf_counter() - started

    def tokenize(self, positions: Iterable[int]) -> None:
        """Split documents into passages if asked, and tokenise the texts without a vector."""
        started = time.perf_counter()
        summary, recipe = self.summary, self._folder.recipe
        new: dict[str, None] = {}  # in the order of the passages, each once
        for i in positions:
            if recipe.passage_size is not None:
                self._passages[i] = recipe.passage_size.split(self.documents[i].text, self._count)
            new |= {p.text: None for p in self._passages[i] if p.text not in self._stored}
        tokenized = self._embedder.tokenize(list(new), task=recipe.task, one_by_one=True)
        self._tokenized = dict(zip(new, (e.token_ids for e in tokenized), strict=True))
        summary.tokens += sum(map(len, self._tokenized.values()))
        summary.truncated += sum(each.truncated for each in tokenized)
        summary.seconds["tokenize"] += time.perf_counter() - started

    def compute(self) -> None:
        """Compute the vectors of the texts that were tokenised last."""
        started = time.perf_counter()
        texts = list(self._tokenized)
        computed = self._embedder.compute(list(self._tokenized.values()))
        for i, fault in computed.faults.items():
            self._reasons[texts[i]] = f"{fault.received}; {fault.remedy}"
        self._computed.append((texts, computed.vectors))
        self.summary.seconds["compute"] += time.perf_counter() - started

    def reject(self, position: int, reason: str) -> None:
        """Make a document a dead letter instead of tokenising and computing it."""
        self._reasons[self.documents[position].text] = reason

    def write(self) -> Summary:
        """Write the shard, and dead letters of what has no vector; returns the summary."""
        started = time.perf_counter()
        folder, summary = self._folder, self.summary
        encoded = self._encode()
        documents, passages, dead_letters = [], [], []
        for document, parts in zip(self.documents, self._passages, strict=True):
            for i, passage in enumerate(parts):
                if passage.text in self._reasons:
                    name = f"{document.id}#{i}" if folder.recipe.passage_size else document.id
                    dead_letters.append(DeadLetter(name, self._reasons[passage.text]))
            if embedded := [part for part in parts if part.text not in self._reasons]:
                documents.append(document)
                passages.append(embedded)
        texts = [part.text for parts in passages for part in parts]
        summary.documents, summary.dead_letters = len(documents), len(dead_letters)
        summary.computed = sum(text in encoded for text in texts)
        summary.reused = len(texts) - summary.computed
        if documents:
            stored = self._stored | encoded
            vectors = np.stack([stored[text] for text in texts])
            shard = Shard.of(documents, passages, vectors, folder.schema)
            shard = shard if self._kept is None else self._kept + shard
            folder.write(self._unit.shard, shard, dead_letters)
        elif self._kept is not None and self._drops:
            folder.write(self._unit.shard, self._kept, dead_letters)
        else:  # the shard is done already
            folder.write_dead_letters(self._unit.name, dead_letters)
        summary.seconds["write"] += time.perf_counter() - started
        return summary

    def _encode(self) -> dict[str, StoredVectors]:
        """The computed vectors as they are stored; a text whose vector cannot be gets a reason."""
        encoded_by_text: dict[str, StoredVectors] = {}
        recipe = self._folder.recipe
        problem = f"its vector holds a number too large for {recipe.dtype}; store float32"
        for texts, vectors in self._computed:
            finished = finish(vectors, recipe.dimensions, normalize=recipe.normalize)
            encoded = encode_vectors(finished, recipe.dtype)
            encoded_by_text |= zip(texts, encoded, strict=True)
            for i in np.flatnonzero(np.isinf(encoded).any(axis=1)).tolist():
                self._reasons.setdefault(texts[i], problem)
        return encoded_by_text

    def _read_documents(self, reading: Reading, shard: Shard | None) -> list[Document]:
        """The documents that the shard lacks, without those that changed since they were listed."""
        documents = []
        present = set() if shard is None else set(shard.entries["content"].tolist())
        for selection in self._unit.selections:
            contents = dict(zip(selection.rows, selection.contents.tolist(), strict=True))
            missing = [row for row in selection.rows if contents[row] not in present]
            if not missing:
                continue
            for start, item in reading.selected_rows(selection.file, selection.start, missing):
                if isinstance(item, Document) and item.hashes()[1] == contents[start.row]:
                    documents.append(item)
        return documents

    def _add_stored(self, shard: Shard) -> None:
        texts = shard.table["text"].to_pylist()
        self._stored |= zip(texts, shard.stored_vectors(), strict=True)

    def _count(self, text: str) -> int:
        """The number of a text's tokens without its two ends."""
        return self._embedder.tokenize([], [text], task="", one_by_one=True)[0].num_tokens - 2


def _one_ahead(
    function: Callable[[Item], Outcome], items: Iterable[Item]
) -> Generator[Outcome, None, None]:
    """`map` in a thread of its own, which works one item ahead of the consumer."""
    with ThreadPoolExecutor(1) as thread:
        submitted = deque[Future[Outcome]]()
        for item in items:
            submitted.append(thread.submit(function, item))
            if len(submitted) > 1:
                yield submitted.popleft().result()
        yield from (last.result() for last in submitted)
