"""Systems side by side in interleaved rounds: seconds a call, ratios, peaks of memory.

A machine's speed drifts, so a system is only compared with what another took in the same round.
Knows nothing of what the systems compute.
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
NOISY = 0.2  # a spread above which a row is marked
SHORT = 0.05  # seconds: a call that takes less is made several times a round


@dataclass
class Times:
    """Seconds a call in each round, and the peak of memory in GiB."""

    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def median(self) -> float:
        """The middle of the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(greatest - least) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def ratio(self, other: "Times") -> float:
        """How many times longer the other took: the median of the ratios round by round."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)

    def columns(self) -> dict[str, Any]:
        """Median, least and greatest in milliseconds; a mark where they lie far apart."""
        low, high = min(self.seconds), max(self.seconds)
        columns: dict[str, Any] = {
            "ms": _digits(self.median * 1e3),
            "least": _digits(low * 1e3),
            "greatest": _digits(high * 1e3),
        }
        return columns | {"spread": f"{self.spread:.0%}{' !' if self.spread > NOISY else ''}"}


def _digits(value: float) -> float:
    return round(value, 1) if value >= 100 else round(value, 3)


def side_by_side(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int = ROUNDS,
    name: str = "",
) -> dict[str, Times]:
    """Times of every run, after one call of each that warms up.

    Each round runs all of them, in an order that begins one further on than in the round before.
    """
    calls = {}
    for system, run in tqdm(runs.items(), f"{name}: warm-up", leave=False):
        _seconds(run, 1, device)  # compiles, reads from the disk, chooses kernels
        calls[system] = math.ceil(SHORT / max(_seconds(run, 1, device), 1e-6))
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
    """Seconds a call."""
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
    """Begin to watch the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (man 5 proc)


def peak_gib(device: torch.device) -> float:
    """The peak since `reset_peak`, weights included: allocated on CUDA, resident on a CPU.

    Of this process alone; getrusage would begin with its parent's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20
