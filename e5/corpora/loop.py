"""Does units in one process: rows of a corpus and vectors that shards hold -> a unit's shard.

One unit is computed while the next is read and tokenised and the last one written, so that the
engine is never idle.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from typing import TypeVar

import numpy as np

from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import DeadLetter, Document, Passage
from e5.corpora.passages import passages
from e5.corpora.plan import Unit
from e5.corpora.runner import Model, Summary
from e5.corpora.shard import Shard
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.corpora.vector_encoding import StoredVectors, encode_vectors
from e5.embedder import Embedder
from e5.packing import TokenIds
from e5.vectors import Vectors, finish

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class UnitInput:
    """What a unit's shard is made of.

    Attributes:
        unit: the unit.
        kept: the documents that stay in the shard; None if there is no shard.
        drops: whether some documents do not stay.
        documents: the documents to write.
        stored: stored vectors that can be reused, by the text of a document or passage.
        summary: figures so far.
    """

    unit: Unit
    kept: Shard | None
    drops: bool
    documents: list[Document]
    stored: dict[str, StoredVectors]
    summary: Summary


@dataclass(frozen=True)
class Tokenized:
    """Documents ready for the engine.

    Attributes:
        passages: those of each document; one, the whole text, if documents are not split.
        texts: the texts that need a vector, without repetition.
        sequences: their token ids.
    """

    passages: list[list[Passage]]
    texts: list[str]
    sequences: list[TokenIds]


@dataclass(frozen=True)
class UnitVectors:
    """What was computed for a unit's documents.

    Attributes:
        passages: those of each document.
        texts: the texts that were computed.
        vectors: float32 `[num_texts, dimensions]`; ignore those of texts with a reason.
        reasons: why texts have no vector.
    """

    passages: list[list[Passage]]
    texts: list[str]
    vectors: Vectors
    reasons: dict[str, str]


class Loop:
    """Does units in this process, one after another. A `Runner`.

    Example:
        >>> loop = Loop(lambda: Embedder.load(Settings(weights="weights/e5-mini")))
        >>> loop.describe().dimensions
        192
    """

    def __init__(self, load: Callable[[], Embedder]) -> None:
        """`load` is called when the model is first needed."""
        self._load = load
        self._embedder: Embedder | None = None

    def describe(self) -> Model:
        """The model that computes; loads it if needed.

        Raises:
            E5Error: as `load` raises it.
        """
        self._embedder = self._embedder or self._load()
        return Model(self._embedder.name, self._embedder.dimensions)

    def embed_units(
        self, units: Iterable[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Generator[Summary, None, None]:
        """Do units of a corpus in a folder; yields the summary of each finished unit."""
        embedder = self._embedder = self._embedder or self._load()
        with Reading(corpus) as reading:

            def prepare(unit: Unit) -> tuple[UnitInput, Tokenized]:
                given = read(unit, reading, folder)
                return given, tokenize(given, given.documents, embedder, folder.recipe)

            def computed() -> Iterator[tuple[UnitInput, UnitVectors]]:
                waited = time.perf_counter()
                for given, tokenized in _one_ahead(prepare, units):
                    given.summary.seconds["wait"] = time.perf_counter() - waited
                    yield given, compute(tokenized, embedder, given.summary)
                    waited = time.perf_counter()

            yield from _one_ahead(lambda done: write(*done, folder), computed())


def read(unit: Unit, reading: Reading, folder: ShardFolder) -> UnitInput:
    """Read a unit's rows, and the vectors that shards hold of them."""
    started = time.perf_counter()
    summary = Summary()
    shard = folder.read(unit.shard)
    kept, documents = shard, _documents(unit, reading, shard, summary)
    stored: dict[str, StoredVectors] = {}
    drops = False
    if shard is not None:
        is_dropped = np.isin(shard.entries["content"], unit.drop)
        drops = bool(is_dropped.any())
        kept = shard.select(~is_dropped)
        stored |= _vectors_by_text(shard.select(is_dropped))
    for source in unit.sources:
        other = ShardFolder(source.folder).read(source.shard)
        if other is not None:
            stored |= _vectors_by_text(other.select(np.isin(other.entries["text"], source.texts)))
    summary.seconds["read"] = time.perf_counter() - started
    return UnitInput(unit, kept, drops, documents, stored, summary)


def tokenize(
    given: UnitInput, documents: Sequence[Document], embedder: Embedder, recipe: Recipe
) -> Tokenized:
    """Split documents of a unit into passages if asked, and tokenise those without a vector."""
    started = time.perf_counter()
    parts = [[Passage(document.text, 0, len(document.text))] for document in documents]
    if recipe.passage_size is not None:
        count = _counter(embedder)
        parts = [passages(document.text, recipe.passage_size, count) for document in documents]
    every = [passage.text for document in parts for passage in document]
    texts = [text for text in dict.fromkeys(every) if text not in given.stored]
    reused = sum(text in given.stored for text in every)
    encodings = embedder.tokenize(texts, task=recipe.task, one_by_one=True)
    summary = given.summary
    summary.reused += reused
    summary.computed += len(every) - reused
    summary.tokens += sum(len(encoding.token_ids) for encoding in encodings)
    summary.truncated += sum(encoding.truncated for encoding in encodings)
    summary.seconds["tokenize"] += time.perf_counter() - started
    return Tokenized(parts, texts, [encoding.token_ids for encoding in encodings])


def compute(tokenized: Tokenized, embedder: Embedder, summary: Summary) -> UnitVectors:
    """The vectors of tokenised documents; the time is added to `summary`."""
    started = time.perf_counter()
    computed = embedder.compute(tokenized.sequences)
    faults = computed.faults.items()
    reasons = {tokenized.texts[i]: f"{fault.received}; {fault.remedy}" for i, fault in faults}
    summary.seconds["compute"] += time.perf_counter() - started
    return UnitVectors(tokenized.passages, tokenized.texts, computed.vectors, reasons)


def write(given: UnitInput, made: UnitVectors, folder: ShardFolder) -> Summary:
    """Write a unit's shard, and dead letters of what has no vector; returns its summary."""
    started = time.perf_counter()
    summary, recipe = given.summary, folder.recipe
    vectors = finish(made.vectors, recipe.dimensions, normalize=recipe.normalize)
    encoded = encode_vectors(vectors, recipe.dtype)
    overflow = f"its vector holds a number too large for {recipe.dtype}; store float32"
    overflows = np.isinf(encoded).any(axis=1).tolist()
    overflowing = dict.fromkeys(compress(made.texts, overflows), overflow)
    reasons = overflowing | made.reasons
    stored = given.stored | dict(zip(made.texts, encoded, strict=True))
    documents, parts, letters = [], [], []
    for document, every in zip(given.documents, made.passages, strict=True):
        for i, passage in enumerate(every):
            if passage.text in reasons:
                name = document.id if recipe.passage_size is None else f"{document.id}#{i}"
                letters.append(DeadLetter(name, reasons[passage.text]))
        if embedded := [passage for passage in every if passage.text not in reasons]:
            documents.append(document)
            parts.append(embedded)
    summary.documents, summary.dead_letters = len(documents), len(letters)
    summary.computed -= len(letters)
    if not documents and not given.drops:  # it is done already, but for its dead letters
        folder.write_dead_letters(given.unit.name, letters)
        return summary
    layout = folder.layout
    rows = [stored[passage.text] for part in parts for passage in part]
    numbers = np.stack(rows) if rows else np.empty((0, layout.width), encoded.dtype)
    shard = Shard.of(documents, parts, numbers, layout)
    if given.kept is not None:
        shard = given.kept + shard
    folder.write(given.unit.shard, shard, letters)
    summary.seconds["write"] += time.perf_counter() - started
    return summary


def _documents(
    unit: Unit, reading: Reading, shard: Shard | None, summary: Summary
) -> list[Document]:
    """The documents that the shard lacks. Those that are no longer what they were are left out."""
    documents = []
    stored = set() if shard is None else set(shard.entries["content"].tolist())
    for selection in unit.selections:
        contents = dict(zip(selection.rows, selection.contents.tolist(), strict=True))
        missing = [row for row in selection.rows if contents[row] not in stored]
        found = 0
        for position, item in (
            reading.selected_rows(selection.file, selection.start, missing) if missing else ()
        ):
            if isinstance(item, Document) and item.hashes()[1] == contents[position.row]:
                documents.append(item)
                found += 1
        summary.stale += len(missing) - found
    return documents


def _vectors_by_text(shard: Shard) -> dict[str, StoredVectors]:
    return dict(zip(shard.table["text"].to_pylist(), shard.stored_vectors(), strict=True))


def _counter(embedder: Embedder) -> Callable[[str], int]:
    """A function that counts a text's tokens without its two ends."""

    def count(text: str) -> int:
        return embedder.tokenize([], [text], task="", one_by_one=True)[0].num_tokens - 2

    return count


def _one_ahead(
    function: Callable[[Item], Outcome], items: Iterable[Item]
) -> Generator[Outcome, None, None]:
    """`map` in a thread of its own, which works one item ahead of the consumer."""
    with ThreadPoolExecutor(1) as thread:
        previous: Future[Outcome] | None = None
        for item in items:
            submitted = thread.submit(function, item)
            if previous is not None:
                yield previous.result()
            previous = submitted
        if previous is not None:
            yield previous.result()
