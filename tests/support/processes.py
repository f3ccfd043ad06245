"""Processes that others started, and tests that only Linux can answer."""

import sys

import psutil
import pytest

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="needs what only Linux has: /proc, names that are no UTF-8, ..."
)


def children(process_id: int) -> list[int]:
    """The processes that this one started and that have not been waited for."""
    return [child.pid for child in psutil.Process(process_id).children()]


def lives(process_id: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
