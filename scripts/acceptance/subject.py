"""What is to be accepted: weights on a device of this machine.

Knows how to name them and load them, not what is asked of them.
"""

import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.machine import machine_name
from e5.embedder import Embedder
from e5.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Subject:
    """Weights and a device, as `E5_WEIGHTS` and `E5_DEVICE` name them."""

    weights: Path
    device: str

    @cached_property
    def on_a_card(self) -> bool:
        """Whether the device is one."""
        return self.device.startswith("cuda")

    def load(self, **settings: str) -> Embedder:
        """The checkpoint on the device, with settings of `Settings` changed."""
        return Embedder.load(Settings(weights=self.weights, **{"device": self.device, **settings}))  # type: ignore[arg-type]

    def facts(self) -> dict[str, str]:
        """What a report is about."""
        usable = not self.on_a_card or torch.cuda.is_available()
        return {
            "machine": machine_name(torch.device(self.device if usable else "cpu")),
            "device": self.device,
            "weights": self.weights.name,
            "commit": _commit(),
            "torch": torch.__version__,
        }


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
