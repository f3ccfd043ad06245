"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable

SECONDS = 60.0  # far longer than anything takes on a busy machine


def wait_until(condition: Callable[[], object], *, seconds: float = SECONDS) -> None:
    """Look at a condition until it holds.

    Raises:
        AssertionError: if it does not hold in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not become true within {seconds:g} s"
        time.sleep(0.01)
