"""Gives memory back to the system that the C library keeps after large requests.

glibc keeps freed blocks in the arena of each thread for later. After requests of all shapes that
is hundreds of megabytes which nobody uses. Knows nothing of what the memory held.
"""

import ctypes
import time
from collections.abc import Callable
from functools import cache

PAUSE_SECONDS = 10.0  # a call takes some milliseconds, and others that allocate wait for it


class MemoryTrimmer:
    """To be told when work is done; returns what is free now and then."""

    def __init__(self) -> None:
        """Nothing was returned yet."""
        self._last = time.monotonic()

    def give_back(self) -> bool:
        """Return free pages, unless that was done a moment ago; whether it was done now.

        `malloc_trim(0)` of glibc (man 3 malloc_trim); other C libraries do without.
        """
        if time.monotonic() - self._last < PAUSE_SECONDS:
            return False
        self._last = time.monotonic()
        trim = _malloc_trim()
        if trim is not None:
            trim(0)
        return trim is not None


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        function: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return function
