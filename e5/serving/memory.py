"""Gives memory back to the system that the C library keeps after large requests.

glibc keeps freed blocks of each thread for later: hundreds of megabytes which nobody uses.
"""

import ctypes
import time


class MemoryTrimmer:
    """Returns free memory to the system from time to time."""

    def __init__(self, pause_seconds: float = 10.0, library: object | None = None) -> None:
        """Trim after `pause_seconds` for the first time; `library` is the C library.

        Trimming takes some milliseconds, in which other threads that allocate wait.
        """
        self._pause_seconds = pause_seconds
        # man 3 malloc_trim: only glibc has it
        self._malloc_trim = getattr(library or ctypes.CDLL(None), "malloc_trim", None)
        self._last = time.monotonic()

    def trim(self) -> bool:
        """Give free pages back, unless that was done a moment ago; returns whether it was done."""
        if self._malloc_trim is None or time.monotonic() - self._last < self._pause_seconds:
            return False
        self._last = time.monotonic()
        self._malloc_trim(0)
        return True
