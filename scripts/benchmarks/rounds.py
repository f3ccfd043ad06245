"""Measures systems in interleaved rounds: seconds per call, ratios, peaks of memory.

The speed of a machine drifts, so systems are compared within the same round only.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROUNDS = 5
LARGE_SPREAD = 0.2  # rows with a larger spread are marked
MIN_SECONDS = 0.05  # a shorter call is repeated within a round until it takes so long


@dataclass
class Times:
    """Seconds per call in each round, and the peak of memory in GiB."""

    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(greatest - least) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def ratio(self, other: "Times") -> float:
        """How many times longer the other system took: the median of the ratios of the rounds."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        return statistics.median(longer / own for longer, own in pairs)

    def columns(self) -> dict[str, Any]:
        """Median, least and greatest in milliseconds, and the spread, with `!` if it is large."""
        low, high = min(self.seconds), max(self.seconds)
        columns: dict[str, Any] = {
            "ms": _digits(self.median * 1e3),
            "least": _digits(low * 1e3),
            "greatest": _digits(high * 1e3),
        }
        mark = " !" if self.spread > LARGE_SPREAD else ""
        return columns | {"spread": f"{self.spread:.0%}{mark}"}


def _digits(value: float) -> float:
    return round(value, 1) if value >= 100 else round(value, 3)


def side_by_side(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int = ROUNDS,
    name: str = "",
) -> dict[str, Times]:
    """Measure every system after a warm-up.

    Each round runs all systems. Its order starts one system later than that of the round before.
    """
    calls = {}
    for system, run in tqdm(runs.items(), f"{name}: warm-up", leave=False):
        _seconds(run, 1, device)  # the first call compiles, reads from the disk and chooses kernels
        calls[system] = math.ceil(MIN_SECONDS / max(_seconds(run, 1, device), 1e-6))
    times = {system: Times() for system in runs}
    order = list(runs)
    for number in tqdm(range(rounds), f"{name}: rounds", leave=False):
        first = number % len(order)
        for system in order[first:] + order[:first]:
            reset_peak(device)
            times[system].seconds.append(_seconds(runs[system], calls[system], device))
            times[system].peak = max(times[system].peak, peak_gib(device))
    return times


def _seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds per call."""
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    _synchronize(device)
    return (time.perf_counter() - started) / calls


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Reset the peak of memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (man 5 proc)


def peak_gib(device: torch.device) -> float:
    """The peak since `reset_peak`, weights included: allocated on CUDA, resident on a CPU.

    It is that of this process; getrusage would include the peak of the parent.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20
