"""Does units in one process: rows and vectors that are there already -> a unit's shard.

One unit is computed while the next is read and tokenised and the last one written, so that the
engine is never idle. Knows nothing of clusters or of which units there are.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import DeadLetter, Document, Passage
from e5.corpora.passages import passages
from e5.corpora.plan import Unit
from e5.corpora.shard import Shard
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.corpora.vector_encoding import StoredVectors, encode_vectors
from e5.embedder import Computed, Embedder
from e5.packing import TokenIds
from e5.vectors import finish

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
        documents: number of those that were written.
        computed: vectors that were computed.
        reused: vectors that were there already.
        tokens: number computed, prompts included.
        truncated: number of texts that were cut.
        dead_letters: number of texts without a vector.
        stale: number of rows that changed after they were listed; nothing was written for them.
        seconds: spent in each stage; stages overlap, so the sum may exceed the elapsed time.
    """

    documents: int = 0
    computed: int = 0
    reused: int = 0
    tokens: int = 0
    truncated: int = 0
    dead_letters: int = 0
    stale: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __iadd__(self, other: "Summary") -> "Summary":
        """Add the figures of another summary."""
        for name, value in vars(other).items():
            if name != "seconds":
                setattr(self, name, getattr(self, name) + value)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds
        return self


@dataclass(frozen=True)
class Gathered:
    """What a unit has to work with.

    Attributes:
        unit: that it is.
        kept: what stays of the shard; None if there is no shard.
        drops: whether something does not stay.
        documents: to write.
        numbers: stored vectors that are there already, by the text of a document or passage.
        summary: figures so far.
    """

    unit: Unit
    kept: Shard | None
    drops: bool
    documents: list[Document]
    numbers: dict[str, StoredVectors]
    summary: Summary


@dataclass(frozen=True)
class Tokenized:
    """Documents ready for the engine.

    Attributes:
        parts: passages of each document; one, the whole, if documents are not cut.
        todo: texts that need a vector, without repetition.
        sequences: their token ids.
    """

    parts: list[list[Passage]]
    todo: list[str]
    sequences: list[TokenIds]


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

            def prepare(unit: Unit) -> tuple[Gathered, Tokenized]:
                gathered = gather(unit, reading, folder)
                return gathered, tokenize(gathered, gathered.documents, embedder, folder.recipe)

            def computed() -> Iterator[tuple[Gathered, Tokenized, Computed]]:
                waited = time.perf_counter()
                for gathered, tokenized in _one_ahead(prepare, units):
                    gathered.summary.seconds["wait"] = time.perf_counter() - waited
                    done = compute(tokenized.sequences, embedder, gathered.summary)
                    yield gathered, tokenized, done
                    waited = time.perf_counter()

            yield from _one_ahead(lambda one: write(*one, folder), computed())


def gather(unit: Unit, reading: Reading, folder: ShardFolder) -> Gathered:
    """Read a unit's rows, and the vectors that are there already."""
    started = time.perf_counter()
    summary = Summary()
    shard = folder.read(unit.shard)
    kept, documents = shard, _read(unit, reading, shard, summary)
    numbers: dict[str, StoredVectors] = {}
    drops = False
    if shard is not None:
        is_dropped = np.isin(shard.entries["content"], unit.drop)
        drops = bool(is_dropped.any())
        kept = shard.select(~is_dropped)
        numbers |= _numbers_by_text(shard.select(is_dropped))
    for source in unit.sources:
        other = ShardFolder(source.folder).read(source.shard)
        if other is not None:
            chosen = np.isin(other.entries["text"], source.texts)
            numbers |= _numbers_by_text(other.select(chosen))
    summary.seconds["read"] = time.perf_counter() - started
    return Gathered(unit, kept, drops, documents, numbers, summary)


def tokenize(
    gathered: Gathered, documents: Sequence[Document], embedder: Embedder, recipe: Recipe
) -> Tokenized:
    """Split documents of a unit into passages if asked, and tokenise those without a vector."""
    started = time.perf_counter()
    parts = [[Passage(document.text, 0, len(document.text))] for document in documents]
    if recipe.passage_size is not None:
        count = _counter(embedder)
        parts = [passages(document.text, recipe.passage_size, count) for document in documents]
    known, summary = gathered.numbers, gathered.summary
    texts = dict.fromkeys(part.text for some in parts for part in some)
    todo = [text for text in texts if text not in known]
    reused = sum(part.text in known for some in parts for part in some)
    summary.reused += reused
    summary.computed += sum(map(len, parts)) - reused
    encodings = embedder.tokenize(todo, task=recipe.task, one_by_one=True)
    summary.tokens += sum(len(encoding.token_ids) for encoding in encodings)
    summary.truncated += sum(encoding.truncated for encoding in encodings)
    summary.seconds["tokenize"] += time.perf_counter() - started
    return Tokenized(parts, todo, [encoding.token_ids for encoding in encodings])


def compute(sequences: Sequence[TokenIds], embedder: Embedder, summary: Summary) -> Computed:
    """Vectors and faults of a unit; timed in `summary`."""
    started = time.perf_counter()
    computed = embedder.compute(sequences)
    summary.seconds["compute"] += time.perf_counter() - started
    return computed


def write(
    gathered: Gathered, tokenized: Tokenized, computed: Computed, folder: ShardFolder
) -> Summary:
    """Write a unit, with faults as dead letters; returns its summary."""
    started = time.perf_counter()
    summary, recipe = gathered.summary, folder.recipe
    vectors = finish(computed.vectors, recipe.dimensions, normalize=recipe.normalize)
    made = encode_vectors(vectors, recipe.dtype)
    numbers, reasons = dict(gathered.numbers), {}
    overflows = np.asarray(np.isinf(made).any(axis=1))
    for place, text in enumerate(tokenized.todo):
        if place in computed.faults:
            fault = computed.faults[place]
            reasons[text] = f"{fault.received}; {fault.remedy}"
        elif overflows[place]:
            reasons[text] = f"its vector holds a number too large for {recipe.dtype}; store float32"
        else:
            numbers[text] = made[place]
    documents, parts, letters = [], [], []
    for document, some in zip(gathered.documents, tokenized.parts, strict=True):
        for place, part in enumerate(some):
            if part.text in reasons:
                name = document.id if recipe.passage_size is None else f"{document.id}#{place}"
                letters.append(DeadLetter(name, reasons[part.text]))
        alive = [part for part in some if part.text in numbers]
        if alive:
            documents.append(document)
            parts.append(alive)
    summary.documents, summary.dead_letters = len(documents), len(letters)
    summary.computed -= len(letters)
    if not documents and not gathered.drops:  # it is done already, but for its dead letters
        folder.write_dead_letters(gathered.unit.name, letters)
        return summary
    rows = [numbers[part.text] for some in parts for part in some]
    width = folder.layout.width
    stored = np.stack(rows) if rows else np.empty((0, width), made.dtype)
    shard = Shard.of(documents, parts, stored, folder.layout)
    if gathered.kept is not None:
        shard = gathered.kept + shard
    folder.write(gathered.unit.shard, shard, letters)
    summary.seconds["write"] += time.perf_counter() - started
    return summary


def _read(unit: Unit, reading: Reading, shard: Shard | None, summary: Summary) -> list[Document]:
    """The documents that the shard lacks. Those that are no longer what they were are left out."""
    documents = []
    there = set() if shard is None else set(shard.entries["content"].tolist())
    for pick in unit.picks:
        contents = dict(zip(pick.rows, pick.contents.tolist(), strict=True))
        wanted = [row for row in pick.rows if contents[row] not in there]
        found = 0
        for mark, item in reading.selected_rows(pick.file, pick.mark, wanted) if wanted else ():
            if isinstance(item, Document) and item.hashes()[1] == contents[mark.row]:
                documents.append(item)
                found += 1
        summary.stale += len(wanted) - found
    return documents


def _numbers_by_text(shard: Shard) -> dict[str, StoredVectors]:
    return dict(zip(shard.table["text"].to_pylist(), shard.stored_vectors(), strict=True))


def _counter(embedder: Embedder) -> Callable[[str], int]:
    """Counts a text's tokens without its two ends."""

    def count(text: str) -> int:
        return embedder.tokenize([], [text], task="", one_by_one=True)[0].num_tokens - 2

    return count


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
