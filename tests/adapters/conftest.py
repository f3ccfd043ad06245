"""What the adapters' tests stand on: encoders near and far. Knows no framework."""

from collections.abc import Iterator

import pytest
from server import ROOT, serve

from e5 import Client
from e5.embedder import Embedder
from e5.encoder import Encoder


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """The URL of the real server."""
    environment = {"E5_DEVICE": "cpu", "E5_DTYPE": "float32"}
    with serve(ROOT / "weights" / "e5-mini", env=environment) as server:
        yield str(server.client.base_url)


@pytest.fixture(
    scope="session", params=["embedder", pytest.param("client", marks=pytest.mark.slow)]
)
def encoder(request: pytest.FixtureRequest, embedder: Embedder) -> Iterator[Encoder]:
    """An embedder in this process; and, slow, a client of the real server."""
    if request.param == "embedder":
        yield embedder
    else:
        with Client(request.getfixturevalue("service"), deadline=60) as client:
            yield client
