"""One server of the built-in checkpoint, and the `Embedder` that its vectors are held to."""

from collections.abc import Iterator

import pytest
from server import ROOT, serve

from e5.embedder import Embedder
from e5.settings import Settings

WEIGHTS = ROOT / "weights" / "e5-mini"


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder.load(Settings(weights=WEIGHTS, device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The URL of the server."""
    with serve(WEIGHTS, env={"E5_DEVICE": "cpu", "E5_DTYPE": "float32"}) as server:
        yield str(server.client.base_url)
