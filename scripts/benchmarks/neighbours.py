"""Other processes on the machine: whether what is measured beside them is worth anything.

Sees those of this container alone: what a neighbour behind its walls takes shows in the spread.
"""

import time

import psutil

BUSY = 0.1  # cores that others may take before a figure is worth nothing


class Neighbours:
    """What processes that are neither this one nor its children take of the cores."""

    def __init__(self) -> None:
        """Begins to watch."""
        self._seconds = self._others()
        self._started = time.monotonic()

    def cores(self) -> float:
        """Cores that others took on average since the beginning."""
        before = self._seconds
        used = sum(max(s - before.get(pid, 0.0), 0.0) for pid, s in self._others().items())
        return used / (time.monotonic() - self._started)

    @staticmethod
    def _others() -> dict[tuple[int, float], float]:
        """CPU seconds by process; a process is its number and when it was made."""
        me = psutil.Process()
        ours = {process.pid for process in (me, *me.children(recursive=True), *me.parents())}
        seconds = {}
        for process in psutil.process_iter(["pid", "create_time", "cpu_times"]):
            taken = process.info["cpu_times"]
            if process.pid not in ours and taken is not None:
                key = process.pid, process.info["create_time"]
                seconds[key] = taken.user + taken.system
        return seconds


def what_is_wrong(cores: float) -> str:
    """Why a figure is not written; empty when it may be.

    >>> what_is_wrong(0.02)
    ''
    >>> what_is_wrong(1)
    'other processes took 1.00 cores meanwhile: no figure is kept; measure again without them'
    """
    if cores <= BUSY:
        return ""
    return (
        f"other processes took {cores:.2f} cores meanwhile: no figure is kept; "
        "measure again without them"
    )
