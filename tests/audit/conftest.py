"""The built-in checkpoint as a source, loaded once."""

import pytest
from server import ROOT

from e5.audit import LocalSource
from e5.embedder import Embedder
from e5.settings import Settings


@pytest.fixture(scope="session")
def mini() -> LocalSource:
    """The built-in checkpoint in float32."""
    return LocalSource.load(Settings(weights=ROOT / "weights" / "e5-mini", device="cpu"))


@pytest.fixture(scope="session")
def mini_embedder() -> Embedder:
    """The same checkpoint as an encoder."""
    return Embedder.load(
        Settings(weights=ROOT / "weights" / "e5-mini", device="cpu", dtype="float32")
    )
