"""The whole service over an engine that computes nothing: what is measured is what is around it.

`python -m benchmarks.simulated` is the gateway; `Served` is the predictor for Cog, and `Empty` one
that does nothing at all. Texts are checked and tokenised as ever, and each vector is the same.

SIMULATED names the engine. `free` costs nothing. `a40` and `h100` cost what such a card would: per
forward the greater of reading the weights and computing the tokens, with the interpreter released;
meanwhile the host launches kernels one by one, in Python. That is an estimate, no measurement.
`real` computes.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from cog import BaseRunner, Input

from e5.checkpoint import TOKENIZER
from e5.embedder import Computed, Embedder
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.gateway import Gateway, InProcessBackend, ModelNames, serve
from e5.graphs import size_for
from e5.packing import MIN_SHARED, TokenIds, pack
from e5.serving import Service
from e5.settings import Settings
from e5.tokenizer import Tokenizer
from e5.vectors import Vectors
from predict import Predictor

HIDDEN_SIZE = 4096  # the 7B model's
LAUNCHES, LAUNCH_SECONDS = 1042, 14e-6  # counted and timed on an H100's host, 2026-11-27
GRAPH_SECONDS = 0.5e-3  # where a CUDA graph launches them; measured there too


@dataclass(frozen=True)
class Card:
    """Seconds to read the 7B model's weights once, and tokens a second of large batches."""

    reading: float
    rate: float


CARDS = {"a40": Card(0.020, 10_700), "h100": Card(0.0042, 71_000)}


class Simulated(Engine):
    """Spends a card's time. Texts are packed as ever."""

    def __init__(self, card: Card) -> None:
        """Of the 7B model's width, without a model."""
        self.hidden_size = HIDDEN_SIZE
        self.max_batch_tokens = MAX_CUDA_BATCH_TOKENS
        self._card = card

    def _forward(
        self, texts: Sequence[TokenIds], min_shared: int = MIN_SHARED
    ) -> Iterator[Vectors]:
        batch = pack(texts, min_shared=min_shared)
        seconds = max(self._card.reading, len(batch.input_ids) / self._card.rate)
        launched = time.perf_counter()
        if size_for(texts) is None:
            for number in range(1, LAUNCHES + 1):  # holds the interpreter, as torch does
                while time.perf_counter() < launched + number * LAUNCH_SECONDS:
                    pass
        else:
            seconds += GRAPH_SECONDS
        time.sleep(max(0.0, launched + seconds - time.perf_counter()))
        yield np.ones((len(texts), HIDDEN_SIZE), np.float32)


def embedder_of(engine: str) -> Embedder:
    """The checkpoint that `E5_WEIGHTS` names, with another engine."""
    settings = Settings.from_env()
    if engine in CARDS:
        folder = Path(settings.weights)
        tokenizer = Tokenizer(folder / TOKENIZER, max_length=settings.max_length)
        return Embedder(Simulated(CARDS[engine]), tokenizer, name=f"{folder.name}@simulated")
    embedder = Embedder.load(settings)
    if engine == "free":
        vectors = np.ones((4096, embedder.dimensions), np.float32)

        def compute(sequences: Sequence[TokenIds]) -> Computed:
            return Computed(vectors[: len(sequences)].copy(), {})

        embedder.compute = compute  # type: ignore[method-assign]
    return embedder


class Served(Predictor):
    """The predictor of predict.py, with that engine."""

    def setup(self) -> None:
        """Replace the service that predict.py loads."""
        super().setup()
        self.service = Service(embedder_of(_engine()), max_queue_tokens=1_000_000)


class Empty(BaseRunner):  # type: ignore[misc]
    """Cog alone."""

    async def run(self, query: str = Input(), encoding_format: str = Input(default="")) -> str:
        """Nothing."""
        return query + encoding_format


def _engine() -> str:
    return os.environ.get("SIMULATED", "free")


def main() -> None:
    """The gateway at `PORT`, until SIGTERM."""
    embedder = embedder_of(_engine())
    backend = InProcessBackend(embedder, Service(embedder, max_queue_tokens=1_000_000))
    gateway = Gateway(backend, ModelNames(embedder.name))
    uvloop.run(serve(gateway, host="127.0.0.1", port=int(os.environ["PORT"])))


if __name__ == "__main__":
    main()
