"""Cards that torch reports and that are not there: their memory and what forwards take of it."""

from collections.abc import Sequence

import pytest
import torch
from torch.cuda._utils import _get_device_index as numbered  # refuses `cuda` without a number

CONTEXT = 700_000_000  # bytes that CUDA itself takes of a card


class FakeCards:
    """Cards of these sizes in gigabytes, nothing on them; torch's own functions are patched."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        sizes: Sequence[float],
        *,
        capability: tuple[int, int] = (8, 6),
    ) -> None:
        """Report the cards; a card of 12 GB has 12 x 2^30 bytes, as those that are sold."""
        self.totals = [int(size * 2**30) for size in sizes]
        self.weights = [0] * len(sizes)  # bytes on each card
        self.peaks = [0] * len(sizes)
        self.fractions = [1.0] * len(sizes)

        def number(device: torch.device | int) -> int:
            return device if isinstance(device, int) else device.index or 0

        def limit(fraction: float, device: int) -> None:
            self.fractions[numbered(device)] = fraction

        def forget_peak(device: torch.device) -> None:
            self.peaks[number(device)] = self.weights[number(device)]

        replacements = {
            "is_available": lambda: True,
            "device_count": lambda: len(sizes),
            "get_device_capability": lambda _: capability,
            "get_device_name": lambda _: "a fake card",
            "empty_cache": lambda: None,
            "mem_get_info": lambda device: (self.free(number(device)), self.totals[number(device)]),
            "memory_allocated": lambda device: self.weights[number(device)],
            "memory_reserved": lambda device: self.weights[number(device)],
            "max_memory_allocated": lambda device: self.peaks[number(device)],
            "reset_peak_memory_stats": forget_peak,
            "set_per_process_memory_fraction": limit,
            "get_per_process_memory_fraction": lambda device: self.fractions[numbered(device)],
        }
        for name, replacement in replacements.items():
            monkeypatch.setattr(f"torch.cuda.{name}", replacement)

    def free(self, card: int) -> int:
        """The bytes that are free on a card."""
        return self.totals[card] - self.weights[card] - CONTEXT

    def take(self, wanted: int, card: int = 0) -> None:
        """Take memory for a moment, if it is there."""
        allowed = self.fractions[card] * self.totals[card] - self.weights[card]
        if wanted > min(self.free(card), allowed):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.peaks[card] = max(self.peaks[card], self.weights[card] + wanted)
