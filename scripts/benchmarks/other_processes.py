"""Watches other processes, because figures that are measured beside busy ones are worth nothing.

It sees the processes of this container only. Those of other containers show in the spread.
"""

import time

import psutil

BUSY = 0.1  # cores that other processes may take before no figure is kept


class OtherProcesses:
    """The CPU time of processes that are not this one, its children or its parents."""

    def __init__(self) -> None:
        """Start to watch."""
        self._seconds = self._cpu_seconds()
        self._started = time.monotonic()

    def cores(self) -> float:
        """Cores that other processes have taken on average since the start."""
        before = self._seconds
        used = sum(max(s - before.get(key, 0.0), 0.0) for key, s in self._cpu_seconds().items())
        return used / (time.monotonic() - self._started)

    @staticmethod
    def _cpu_seconds() -> dict[tuple[int, float], float]:
        """CPU seconds of each process; its key is its id and the time of its creation."""
        this = psutil.Process()
        ours = {process.pid for process in (this, *this.children(recursive=True), *this.parents())}
        seconds = {}
        for process in psutil.process_iter(["pid", "create_time", "cpu_times"]):
            taken = process.info["cpu_times"]
            if process.pid not in ours and taken is not None:
                key = process.pid, process.info["create_time"]
                seconds[key] = taken.user + taken.system
        return seconds


def busy_machine_message(cores: float) -> str:
    """Say why no figure is kept; return an empty text if the machine was not busy.

    >>> busy_machine_message(0.02)
    ''
    >>> busy_machine_message(1)
    'other processes took 1.00 cores meanwhile: no figure is kept; measure again without them'
    """
    if cores <= BUSY:
        return ""
    return (
        f"other processes took {cores:.2f} cores meanwhile: no figure is kept; "
        "measure again without them"
    )
