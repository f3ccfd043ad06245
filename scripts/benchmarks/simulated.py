"""Engines that do not compute, so that only the service itself takes time.

Texts are checked and tokenised as usual; all vectors are equal. `free` takes no time. The others
take the time of a card: a forward takes as long as reading the weights or as computing the tokens,
whichever is longer. Before that the host launches the kernels one by one and holds Python's lock,
as torch does. These times are estimates, not measurements. `random` does compute, with weights of
the 7B model's shapes that it makes on the device.

`simulation` puts them into the processes that are measured.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from benchmarks.random_weights import SEVEN_BILLION, random_mistral
from e5.checkpoint import CONFIG, TOKENIZER
from e5.device import choose_device, choose_dtype
from e5.embedder import Embedder
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.graphs import SIZES, size_for
from e5.mistral import Config
from e5.packing import MIN_SHARED, pack
from e5.settings import Settings
from e5.tokenizer import TokenIds, Tokenizer
from e5.vectors import Vectors

HIDDEN_SIZE = 4096  # the 7B model's
LAUNCHES, LAUNCH_SECONDS = 1042, 14e-6  # kernels of a forward, on the host of an H100, 2026-11-27
GRAPH_SECONDS = 0.5e-3  # all launches by a CUDA graph; measured on the same host


@dataclass(frozen=True)
class Card:
    """Seconds to read the 7B model's weights once, tokens per second of large batches, graphs."""

    read_seconds: float
    tokens_per_second: float
    largest_graph: int  # tokens; larger batches take the card longer than the host's launches


CARDS = {
    "a40": Card(0.020, 10_700, 256),
    "half-h100": Card(0.0084, 35_500, 384),  # what a real H100 computed
    "h100": Card(0.0042, 71_000, 768),
}


class SimulatedEngine(Engine):
    """Takes the time of a card. Texts are packed as usual."""

    def __init__(self, card: Card) -> None:
        """Set the width and the token budget of the 7B model; no model is loaded."""
        self.hidden_size = HIDDEN_SIZE
        self.max_batch_tokens = MAX_CUDA_BATCH_TOKENS
        self.launches_ahead = True
        self._card = card

    def _vectors(self, texts: Sequence[TokenIds], share_prefixes: bool) -> torch.Tensor:
        batch = pack(texts, min_shared=MIN_SHARED if share_prefixes else sys.maxsize)
        seconds = max(self._card.read_seconds, len(batch.input_ids) / self._card.tokens_per_second)
        launched = time.perf_counter()
        if size_for(texts, [size for size in SIZES if size <= self._card.largest_graph]) is None:
            begun = time.thread_time()  # whoever takes Python's lock or the core delays launches
            while time.thread_time() < begun + LAUNCHES * LAUNCH_SECONDS:
                pass
        else:
            seconds += GRAPH_SECONDS
        return cast(torch.Tensor, _RunningBatch(launched + seconds, len(texts)))


@dataclass(frozen=True)
class _RunningBatch:
    """The vectors of a batch, which the card has computed at a time."""

    end: float
    num_texts: int

    def cpu(self) -> torch.Tensor:
        """Wait until then."""
        time.sleep(max(0.0, self.end - time.perf_counter()))
        return torch.ones(self.num_texts, HIDDEN_SIZE)


class FreeEngine(Engine):
    """Takes no time."""

    def __init__(self, hidden_size: int) -> None:
        """Set the width of the vectors."""
        self.hidden_size = hidden_size
        self.max_batch_tokens = MAX_CUDA_BATCH_TOKENS

    def compute(
        self,
        sequences: Sequence[TokenIds],
        *,
        share_prefixes: bool = True,  # noqa: ARG002
    ) -> Vectors:
        """Make vectors of ones."""
        return np.ones((len(sequences), self.hidden_size), np.float32)


def simulated_embedder(engine: str, settings: Settings) -> Embedder:
    """The named engine with the tokenizer of the checkpoint."""
    if engine == "random":
        return _random_embedder(settings)
    folder = Path(settings.weights)
    tokenizer = Tokenizer(folder / TOKENIZER, max_length=settings.max_length)
    made = (
        FreeEngine(Config.read(folder / CONFIG).hidden_size)
        if engine == "free"
        else SimulatedEngine(CARDS[engine])
    )
    return Embedder(made, tokenizer, name=f"{folder.name}@simulated")


def _random_embedder(settings: Settings) -> Embedder:
    """Our own engine with random weights."""
    from benchmarks.models import save_tokenizer  # transformers takes seconds to import

    device = choose_device(settings.device)
    model = random_mistral(SEVEN_BILLION, device, choose_dtype(None, device))
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(Path(name))
        tokenizer = Tokenizer(Path(name) / TOKENIZER, max_length=settings.max_length)
    return Embedder(Engine(model), tokenizer, name=f"{Path(settings.weights).name}@random")


def simulation(engine: str) -> dict[str, str]:
    """The environment in which `Embedder.load` gives the named engine; `real` changes nothing."""
    scripts = Path(__file__).resolve().parents[1]
    paths = [scripts / "benchmarks/simulation", scripts, scripts.parent]
    return {
        "SIMULATED": engine,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
    }
