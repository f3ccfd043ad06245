"""What a run needs of whatever computes the vectors, in this process or on many machines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from e5.corpora.corpus import Corpus
from e5.corpora.plan import Unit
from e5.corpora.shard_folder import ShardFolder

STAGES = ("read", "tokenize", "compute", "wait", "write")  # wait: the engine waits for a unit


@dataclass(frozen=True)
class Model:
    """The model of a runner: its name with fingerprint, and the dimensions of its vectors."""

    name: str
    dimensions: int


@dataclass
class Summary:
    """Figures of one unit or of a run.

    Attributes:
        documents: number of documents that were written.
        computed: number of vectors that were computed.
        reused: number of vectors that were taken from shards.
        tokens: number of tokens that were computed, prompts included.
        truncated: number of texts that were truncated.
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


class Runner(Protocol):
    """What does the units: `Loop` in this process, `Cluster` on many machines."""

    def describe(self) -> Model:
        """The model that computes.

        Raises:
            E5Error: if it cannot be loaded.
        """

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        """Do units of a corpus in a folder; yields the summary of each finished unit.

        Raises:
            E5Error: for a failure that no document caused; it stops the run.
        """
