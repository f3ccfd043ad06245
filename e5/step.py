"""The pure step over a corpus, a unit's rows -> its shard; and the plain loop over units.

In the loop one unit is computed while the next is read and tokenised and the last one written, so
that the engine is never idle. Knows nothing of clusters or of what a folder of shards looks like.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from e5 import prompts
from e5.corpus import Corpus, DeadLetter, Document, Unit
from e5.embedder import Embedder
from e5.errors import OutOfMemoryError
from e5.packing import TokenIds
from e5.shards import Output
from e5.vectors import Vectors

STAGES = ("read", "tokenize", "compute", "wait", "write")  # wait: the engine's, for its next unit

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Summary:
    """What one unit, or a run, came to.

    Attributes:
        seconds: spent in each stage; stages run side by side, so they add up to more than passed.
    """

    documents: int = 0
    tokens: int = 0
    truncated: int = 0
    dead_letters: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __iadd__(self, other: "Summary") -> "Summary":
        """Take another's figures in."""
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
    token_ids: list[TokenIds]
    dead: list[DeadLetter]
    summary: Summary


def embed_units(
    units: Iterable[Unit], corpus: Corpus, embedder: Embedder, output: Output
) -> Generator[Summary, None, None]:
    """Embed units one after another; yields what each finished one came to."""

    def computed() -> Iterator[tuple[Prepared, Vectors]]:
        task = output.recipe.task
        ahead = _one_ahead(lambda unit: prepare(unit, corpus, embedder, task), units)
        waited = time.perf_counter()
        for prepared in ahead:
            prepared.summary.seconds["wait"] = time.perf_counter() - waited
            yield prepared, compute(prepared.token_ids, embedder, prepared.summary)
            waited = time.perf_counter()

    return _one_ahead(lambda one: write(*one, output), computed())


def prepare(unit: Unit, corpus: Corpus, embedder: Embedder, task: str) -> Prepared:
    """Read and tokenise a unit."""
    started = time.perf_counter()
    rows = list(corpus.read(unit))
    documents = [row for row in rows if isinstance(row, Document)]
    dead = [row for row in rows if isinstance(row, DeadLetter)]
    summary = Summary()
    summary.seconds["read"] = time.perf_counter() - started
    token_ids = tokenize(documents, embedder, task, summary)
    return Prepared(unit, documents, token_ids, dead, summary)


def tokenize(
    documents: Sequence[Document], embedder: Embedder, task: str, summary: Summary
) -> list[TokenIds]:
    """Token ids of documents, with the prompt of the task if there is one; counted in `summary`."""
    started = time.perf_counter()
    texts = [document.text for document in documents]
    if task:
        texts = [prompts.query_prompt(task, text) for text in texts]
    # One at a time: many would be spread over all cores, the engine's too, and fill the memory.
    encodings = [embedder.tokenizer.encode([text])[0] for text in texts]
    summary.tokens += sum(len(encoding.token_ids) for encoding in encodings)
    summary.truncated += sum(encoding.truncated for encoding in encodings)
    summary.seconds["tokenize"] += time.perf_counter() - started
    return [encoding.token_ids for encoding in encodings]


def compute(token_ids: Sequence[TokenIds], embedder: Embedder, summary: Summary) -> Vectors:
    """float32 `[num_texts, hidden_size]`; NaN where a text does not fit in memory even alone."""
    started = time.perf_counter()
    try:
        return embedder.engine.compute(token_ids)
    except OutOfMemoryError:
        if len(token_ids) == 1:
            return np.full((1, embedder.engine.hidden_size), np.nan, np.float32)
        return np.concatenate([compute([ids], embedder, Summary()) for ids in token_ids])
    finally:
        summary.seconds["compute"] += time.perf_counter() - started


def write(prepared: Prepared, vectors: Vectors, output: Output) -> Summary:
    """Write a unit; what it came to."""
    started = time.perf_counter()
    summary = prepared.summary
    summary.documents, summary.dead_letters = output.write(
        prepared.unit, prepared.documents, vectors, prepared.dead
    )
    summary.seconds["write"] += time.perf_counter() - started
    return summary


def _one_ahead(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """`map`, by a thread of its own that is one item ahead of whoever takes the results."""
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Result] | None = None
        for item in items:
            begun = thread.submit(function, item)
            if coming is not None:
                yield coming.result()
            coming = begun
        if coming is not None:
            yield coming.result()
