"""What the gateway's tests stand on: the application in this process, and a server of its own."""

from collections.abc import Iterator

import pytest
from browser import Browser, start
from checkpoints import load
from gateway_server import WEIGHTS, GatewayServer, serve_gateway
from gateway_tools import FakeBackend, LocalGateway

from e5.embedder import Embedder
from e5.gateway.backend import InProcessBackend
from e5.serving import Service


@pytest.fixture(scope="session")
def local(embedder: Embedder) -> LocalGateway:
    """A gateway in front of the small checkpoint."""
    backend = InProcessBackend(embedder, Service.of(embedder, max_queue_tokens=1_000_000))
    return LocalGateway(backend, model=embedder.name, aliases={"text-embedding-3-small": "small"})


@pytest.fixture
def fake() -> FakeBackend:
    """A backend that costs nothing."""
    return FakeBackend()


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayServer]:
    """A running one without options; modules that need some have their own."""
    with serve_gateway() as running:
        yield running


@pytest.fixture(scope="session")
def python() -> Embedder:
    """What the running gateway serves, directly."""
    return load(WEIGHTS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless one; skips where there is none."""
    with start() as running:
        yield running
