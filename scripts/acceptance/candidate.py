"""The candidate for acceptance: weights on a device of this machine; and how much is computed."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.machine import machine_name
from benchmarks.rounds import ROUNDS
from e5.attention import has_flash_attention
from e5.embedder import Embedder
from e5.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RANDOM = ROOT / "weights/random"  # made in the step "weights": 14.2 GB


@dataclass(frozen=True)
class Workload:
    """How much the steps compute.

    Attributes:
        beside_float32: texts that a CPU computes again in float32.
        sentences: of each long text that the unmodified model computes too.
        too_long: texts of more tokens than the model reads.
        in_memory: texts that are embedded while the peak of memory is watched.
        requests: predictions that clients send to the server.
        rounds: rounds in which the speed of systems is compared.
    """

    beside_float32: int = 24
    sentences: tuple[int, ...] = (4, 16, 64)
    too_long: int = 8
    in_memory: int = 2000
    requests: int = 640
    rounds: int = ROUNDS


QUICK = Workload(beside_float32=8, sentences=(4,), too_long=1, in_memory=100, requests=64, rounds=1)


@dataclass(frozen=True)
class Candidate:
    """Weights, a device and an engine, as `E5_WEIGHTS`, `E5_DEVICE` and `E5_ENGINE` name them."""

    weights: Path
    device: str
    workload: Workload = Workload()
    engine: str = "packed"

    @cached_property
    def on_a_card(self) -> bool:
        """Whether the device is a card."""
        return self.device.startswith("cuda")

    @cached_property
    def dtypes(self) -> Sequence[str]:
        """The dtypes of 16 bits that the device multiplies."""
        old = self.on_a_card and not has_flash_attention(torch.device(self.device))
        return ["float16"] if old else ["float16", "bfloat16"]

    @property
    def packed(self) -> bool:
        """Whether the engine is our own."""
        return self.engine == "packed"

    def load(self, **settings: str) -> Embedder:
        """Load the checkpoint on the device, with these fields of `Settings`."""
        settings = {"device": self.device, "engine": self.engine, **settings}
        return Embedder.load(Settings(weights=self.weights, **settings))  # type: ignore[arg-type]

    def facts(self) -> dict[str, str]:
        """The facts that a report is about."""
        usable = not self.on_a_card or torch.cuda.is_available()
        return {
            "machine": machine_name(torch.device(self.device if usable else "cpu")),
            "device": self.device,
            "weights": self.weights.name,
            "commit": _commit(),
            "torch": torch.__version__,
            **({} if self.packed else {"engine": self.engine}),
            **({"workload": "quick"} if self.workload == QUICK else {}),
        }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
