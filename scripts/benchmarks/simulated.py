"""The service over an engine that does not compute, so that only the service itself takes time.

`python -m benchmarks.simulated` runs the gateway. `SimulatedPredictor` is the predictor for Cog,
and `EmptyPredictor` does nothing. Texts are checked and tokenised as usual; all vectors are equal.

The variable SIMULATED names the engine. `free` takes no time. `a40` and `h100` take the time of
such a card: a forward takes as long as reading the weights or as computing the tokens, whichever is
longer. Meanwhile the host launches the kernels one by one and holds Python's lock, as torch does.
These times are estimates, not measurements. `real` computes, and so does `random`, with weights of
the 7B model's shapes that it makes on the device.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import uvloop
from cog import BaseRunner, Input

from benchmarks.random_weights import SEVEN_BILLION, random_mistral
from e5.checkpoint import TOKENIZER
from e5.device import choose_device, choose_dtype
from e5.embedder import Computed, Embedder
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.gateway import Gateway, InProcessBackend, ModelNames, serve
from e5.graphs import SIZES, size_for
from e5.packing import MIN_SHARED, TokenIds, pack
from e5.serving import Service
from e5.settings import Settings
from e5.tokenizer import Tokenizer
from predict import Predictor

HIDDEN_SIZE = 4096  # the 7B model's
LAUNCHES, LAUNCH_SECONDS = 1042, 14e-6  # kernels of a forward, on the host of an H100, 2026-11-27
GRAPH_SECONDS = 0.5e-3  # all launches by a CUDA graph; measured on the same host


@dataclass(frozen=True)
class Card:
    """Seconds to read the 7B model's weights once, tokens per second of large batches, graphs."""

    read_seconds: float
    tokens_per_second: float
    largest_graph: int  # tokens; larger batches take the card longer than the host's launches


CARDS = {"a40": Card(0.020, 10_700, 256), "h100": Card(0.0042, 71_000, 768)}


class SimulatedEngine(Engine):
    """Takes the time of a card. Texts are packed as usual."""

    def __init__(self, card: Card) -> None:
        """Set the width and the token budget of the 7B model; no model is loaded."""
        self.hidden_size = HIDDEN_SIZE
        self.max_batch_tokens = MAX_CUDA_BATCH_TOKENS
        self._card = card

    def _vectors(self, texts: Sequence[TokenIds], share_prefixes: bool) -> torch.Tensor:
        batch = pack(texts, min_shared=MIN_SHARED if share_prefixes else sys.maxsize)
        seconds = max(self._card.read_seconds, len(batch.input_ids) / self._card.tokens_per_second)
        launched = time.perf_counter()
        if size_for(texts, [size for size in SIZES if size <= self._card.largest_graph]) is None:
            for number in range(1, LAUNCHES + 1):  # this holds Python's lock, as torch does
                while time.perf_counter() < launched + number * LAUNCH_SECONDS:
                    pass
        else:
            seconds += GRAPH_SECONDS
        time.sleep(max(0.0, launched + seconds - time.perf_counter()))
        return torch.ones(len(texts), HIDDEN_SIZE)


def embedder_of(engine: str) -> Embedder:
    """Load the checkpoint that `E5_WEIGHTS` names, with the named engine."""
    settings = Settings.from_env()
    if engine in CARDS:
        folder = Path(settings.weights)
        tokenizer = Tokenizer(folder / TOKENIZER, max_length=settings.max_length)
        return Embedder(SimulatedEngine(CARDS[engine]), tokenizer, name=f"{folder.name}@simulated")
    if engine == "random":
        from benchmarks.models import save_tokenizer  # transformers takes seconds to import

        device = choose_device(settings.device)
        model = random_mistral(SEVEN_BILLION, device, choose_dtype(None, device))
        with tempfile.TemporaryDirectory() as name:
            save_tokenizer(Path(name))
            tokenizer = Tokenizer(Path(name) / TOKENIZER, max_length=settings.max_length)
        name = f"{Path(settings.weights).name}@random"
        return Embedder(Engine(model), tokenizer, name=name)
    embedder = Embedder.load(settings)
    if engine == "free":
        vectors = np.ones((4096, embedder.dimensions), np.float32)

        def compute(sequences: Sequence[TokenIds]) -> Computed:
            return Computed(vectors[: len(sequences)].copy(), {})

        embedder.compute = compute  # type: ignore[method-assign]
    return embedder


class SimulatedPredictor(Predictor):
    """The predictor of predict.py, with the engine that SIMULATED names."""

    def setup(self) -> None:
        """Replace the service that predict.py loads."""
        super().setup()
        self.service = Service(embedder_of(_engine_name()), max_queue_tokens=1_000_000)


class EmptyPredictor(BaseRunner):  # type: ignore[misc]
    """A predictor that does nothing, to measure Cog alone."""

    async def run(self, query: str = Input(), encoding_format: str = Input(default="")) -> str:
        """Return the inputs."""
        return query + encoding_format


def _engine_name() -> str:
    return os.environ.get("SIMULATED", "free")


def main() -> None:
    """Serve the gateway on the port `PORT` until SIGTERM."""
    embedder = embedder_of(_engine_name())
    backend = InProcessBackend(embedder, Service(embedder, max_queue_tokens=1_000_000))
    gateway = Gateway(backend, ModelNames(embedder.name))
    with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))) as listening:
        uvloop.run(serve(gateway, listening))


if __name__ == "__main__":
    main()
