"""Embeds units in one process: the rows of each unit -> its shard.

One unit is computed while the next is read and tokenised and the last one written, so that the
engine is never idle. Knows nothing of clusters or of what a folder of shards looks like.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from e5.corpora.corpus import Corpus, DeadLetter, Document, Unit
from e5.corpora.shards import ShardFolder
from e5.embedder import Computed, Embedder
from e5.packing import TokenIds

STAGES = ("read", "tokenize", "compute", "wait", "write")  # wait: the engine waits for a unit

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Model:
    """The model of a runner: its name with fingerprint, and the dimensions of its vectors."""

    name: str
    dimensions: int


@dataclass
class Summary:
    """Figures of one unit or of a run.

    Attributes:
        documents: number of those with a vector.
        tokens: number read, prompts included.
        truncated: number of documents that were cut.
        dead_letters: number of rows without a vector.
        seconds: spent in each stage; stages overlap, so the sum may exceed the elapsed time.
    """

    documents: int = 0
    tokens: int = 0
    truncated: int = 0
    dead_letters: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __iadd__(self, other: "Summary") -> "Summary":
        """Add the figures of another summary."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.truncated += other.truncated
        self.dead_letters += other.dead_letters
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds
        return self


@dataclass(frozen=True)
class Prepared:
    """A unit read and tokenised, ready for the engine."""

    unit: Unit
    documents: list[Document]
    sequences: list[TokenIds]
    dead: list[DeadLetter]
    summary: Summary


class Loop:
    """Embeds units in this process, one after another. A `Runner`.

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
        """Embed units of a corpus into a folder; yields the summary of each finished unit."""
        embedder = self._embedder = self._embedder or self._load()

        def computed() -> Iterator[tuple[Prepared, Computed]]:
            task = folder.recipe.task
            ahead = _one_ahead(lambda unit: prepare(unit, corpus, embedder, task), units)
            waited = time.perf_counter()
            for prepared in ahead:
                prepared.summary.seconds["wait"] = time.perf_counter() - waited
                yield prepared, compute(prepared.sequences, embedder, prepared.summary)
                waited = time.perf_counter()

        return _one_ahead(lambda one: write(*one, folder), computed())


def prepare(unit: Unit, corpus: Corpus, embedder: Embedder, task: str) -> Prepared:
    """Read and tokenise a unit."""
    started = time.perf_counter()
    rows = list(corpus.read(unit))
    documents = [row for row in rows if isinstance(row, Document)]
    dead = [row for row in rows if isinstance(row, DeadLetter)]
    summary = Summary()
    summary.seconds["read"] = time.perf_counter() - started
    sequences = tokenize(documents, embedder, task, summary)
    return Prepared(unit, documents, sequences, dead, summary)


def tokenize(
    documents: Sequence[Document], embedder: Embedder, task: str, summary: Summary
) -> list[TokenIds]:
    """Token ids of documents, with the task's prompt unless it is ""; counted in `summary`."""
    started = time.perf_counter()
    texts = [document.text for document in documents]
    encodings = embedder.tokenize(texts, task=task, one_by_one=True)
    summary.tokens += sum(len(encoding.token_ids) for encoding in encodings)
    summary.truncated += sum(encoding.truncated for encoding in encodings)
    summary.seconds["tokenize"] += time.perf_counter() - started
    return [encoding.token_ids for encoding in encodings]


def compute(sequences: Sequence[TokenIds], embedder: Embedder, summary: Summary) -> Computed:
    """Vectors and faults of a unit; timed in `summary`."""
    started = time.perf_counter()
    computed = embedder.compute(sequences)
    summary.seconds["compute"] += time.perf_counter() - started
    return computed


def write(prepared: Prepared, computed: Computed, folder: ShardFolder) -> Summary:
    """Write a unit, with faults as dead letters; returns its summary."""
    started = time.perf_counter()
    summary, documents = prepared.summary, prepared.documents
    dead = [
        *prepared.dead,
        *(DeadLetter(documents[i].id, fault.reason) for i, fault in computed.faults.items()),
    ]
    alive = [i for i in range(len(documents)) if i not in computed.faults]
    summary.documents, summary.dead_letters = folder.write(
        prepared.unit, [documents[i] for i in alive], computed.vectors[alive], dead
    )
    summary.seconds["write"] += time.perf_counter() - started
    return summary


def _one_ahead(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """`map` in a thread of its own, which works one item ahead of the consumer."""
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Result] | None = None
        for item in items:
            begun = thread.submit(function, item)
            if coming is not None:
                yield coming.result()
            coming = begun
        if coming is not None:
            yield coming.result()
