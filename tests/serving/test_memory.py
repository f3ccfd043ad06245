"""What large requests leave behind in the C library goes back to the system, now and then."""

import os
from pathlib import Path

import numpy as np
from processes import needs_linux

from e5.serving.memory import MemoryTrimmer


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@needs_linux
def test_freed_blocks_between_used_ones_are_returned() -> None:
    blocks = [np.ones(60_000, np.uint8) for _ in range(4000)]  # 240 MB
    kept = blocks[::50]  # so that nothing is free at the heap's end alone
    before = resident_mb()
    del blocks
    assert MemoryTrimmer(pause_seconds=0.0).trim()
    assert resident_mb() < before - 150
    assert all(block.all() for block in kept)


def test_nothing_is_returned_during_the_pause() -> None:
    assert not MemoryTrimmer().trim()


def test_a_c_library_without_malloc_trim_is_left_alone() -> None:
    assert not MemoryTrimmer(pause_seconds=0.0, library=object()).trim()
