"""An engine in this process and engines in others are the same to a service."""

import inspect

import pytest

from e5.serving.batcher import Batcher
from e5.serving.engine_queue import EngineQueue
from e5.serving.engines import Engines

MEMBERS = [name for name in vars(EngineQueue) if not name.startswith("_")]


@pytest.mark.parametrize("kind", [Batcher, Engines])
def test_it_has_what_a_service_needs(kind: type) -> None:
    assert {"embed", "check_capacity", "healthy", "waiting_tokens"} <= set(MEMBERS)
    for name in MEMBERS:
        declared = inspect.getattr_static(EngineQueue, name)
        if callable(declared):
            found = getattr(kind, name)
            assert inspect.signature(found) == inspect.signature(declared)
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(declared)
