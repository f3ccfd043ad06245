"""What large requests leave behind in the C library goes back to the system, now and then."""

import os
from pathlib import Path

import numpy as np
import pytest

from e5.serving import memory
from e5.serving.memory import MemoryTrimmer


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_freed_blocks_between_used_ones_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAUSE_SECONDS", 0.0)
    blocks = [np.ones(60_000, np.uint8) for _ in range(4000)]  # 240 MB
    kept = blocks[::50]  # so that nothing is free at the heap's end alone
    before = resident_mb()
    del blocks
    assert MemoryTrimmer().give_back()
    assert resident_mb() < before - 150
    assert all(block.all() for block in kept)


def test_it_is_done_now_and_then_only() -> None:
    assert not MemoryTrimmer().give_back()


def test_a_c_library_that_cannot_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    assert not MemoryTrimmer().give_back()
