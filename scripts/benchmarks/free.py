"""The whole service over an engine that costs nothing: what is measured is all that is around it.

`python -m benchmarks.free` is the gateway; `Free` is the predictor for Cog, and `Empty` one that
does nothing at all. Texts are checked and tokenised as ever, and each vector is the same.
"""

import os
from collections.abc import Sequence

import numpy as np
import uvloop
from cog import BaseRunner, Input

from e5.embedder import Computed, Embedder
from e5.gateway.app import Gateway
from e5.gateway.backend import InProcess
from e5.gateway.models import Models
from e5.gateway.server import serve
from e5.packing import TokenIds
from e5.serving.service import Service
from e5.settings import Settings
from predict import Predictor


def free_embedder() -> Embedder:
    """The checkpoint that `E5_WEIGHTS` names, computing nothing from now on."""
    embedder = Embedder.load(Settings.from_env())
    vectors = np.ones((4096, embedder.dimensions), np.float32)

    def compute(sequences: Sequence[TokenIds]) -> Computed:
        return Computed(vectors[: len(sequences)].copy(), {})

    embedder.compute = compute  # type: ignore[method-assign]
    return embedder


class Free(Predictor):
    """predict.py over that engine."""

    def setup(self) -> None:
        """As there."""
        super().setup()
        self.service = Service(free_embedder(), max_queue_tokens=1_000_000)


class Empty(BaseRunner):  # type: ignore[misc]
    """Cog alone."""

    async def run(self, query: str = Input(), encoding_format: str = Input(default="")) -> str:
        """Nothing."""
        return query + encoding_format


def main() -> None:
    """The gateway at `PORT`, until SIGTERM."""
    embedder = free_embedder()
    backend = InProcess(embedder, Service(embedder, max_queue_tokens=1_000_000))
    gateway = Gateway(backend, Models(embedder.name, {}))
    uvloop.run(serve(gateway, host="127.0.0.1", port=int(os.environ["PORT"])))


if __name__ == "__main__":
    main()
