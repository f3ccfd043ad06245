"""What the gateway's tests stand on: the application in this process, and a server of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browser import Browser, start
from checkpoints import load
from gateway_server import EVERYWHERE, WEIGHTS, GatewayServer, serve_gateway
from gateway_tools import FakeBackend, LocalGateway

from e5.embedder import Embedder
from e5.gateway.backend import InProcessBackend
from e5.serving import Service


@pytest.fixture(scope="session")
def local(embedder: Embedder, checkpoint: Path) -> Iterator[LocalGateway]:
    """A gateway in front of the small checkpoint."""
    backend = InProcessBackend(embedder, Service.of(embedder, max_queue_tokens=1_000_000))
    names: dict[str, Any] = {
        "model": embedder.name,
        "aliases": {"text-embedding-3-small": "small"},
    }
    if not EVERYWHERE:
        yield LocalGateway(backend, **names)
        return
    alias = "text-embedding-3-small=small"
    with serve_gateway("--alias", alias, env={"E5_WEIGHTS": str(checkpoint)}) as running:
        yield RunningGateway(running, backend, **names)


class RunningGateway(LocalGateway):
    """Sends every request to a gateway that runs, and counts what that counts."""

    def __init__(
        self, running: GatewayServer, backend: InProcessBackend[Embedder], **names: Any
    ) -> None:
        super().__init__(backend, **names)
        self._running = running

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self._running.url, timeout=60, trust_env=False)

    def counted(self, name: str, **labels: str) -> float:
        return self._running.counted(f"e5_gateway_{name}", **labels)


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
