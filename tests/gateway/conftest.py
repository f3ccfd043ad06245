"""The real model behind the real application, for all tests of the gateway."""

import pytest
from gateway_tools import Door, FakeBackend

from e5.embedder import Embedder
from e5.gateway.backend import InProcess
from e5.serving.service import Service


@pytest.fixture(scope="session")
def door(embedder: Embedder) -> Door:
    """A gateway in front of the small checkpoint."""
    backend = InProcess(embedder, Service(embedder, max_queue_tokens=1_000_000))
    return Door(backend, model=embedder.name, aliases={"text-embedding-3-small": "small"})


@pytest.fixture
def fake() -> FakeBackend:
    """A backend that costs nothing."""
    return FakeBackend()
