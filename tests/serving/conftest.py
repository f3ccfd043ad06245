"""What the tests of the batcher and the service stand on."""

from pathlib import Path

import pytest
import torch
from watched import POISON, WatchedEngine

from e5.embedder import Embedder
from e5.settings import Settings


@pytest.fixture(scope="module")
def sound(checkpoint: Path) -> Embedder:
    return Embedder.load(Settings(weights=checkpoint, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def poisoned(checkpoint: Path) -> Embedder:
    embedder = Embedder.load(Settings(weights=checkpoint, device="cpu", dtype="float32"))
    embedder._engine.model.embed_tokens.weight[POISON] = torch.nan
    return embedder


@pytest.fixture
def engine(sound: Embedder) -> WatchedEngine:
    return WatchedEngine(sound)
