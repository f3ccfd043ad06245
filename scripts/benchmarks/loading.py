"""Peak memory and time of loading a checkpoint, in a process of its own.

Knows nothing of texts or vectors.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.machine import child
from benchmarks.subjects import saved_checkpoint
from e5.device import choose_device, choose_dtype

_CHILD = """
import sys, time
from pathlib import Path
import torch
from benchmarks.rounds import peak_gib
from e5.checkpoint import Checkpoint
from e5.weights import load_model
folder, device, dtype = sys.argv[1:]
checkpoint, host = Checkpoint.find(Path(folder)), torch.device("cpu")
before, started = peak_gib(host), time.perf_counter()
load_model(checkpoint, device=torch.device(device), dtype=getattr(torch, dtype))
print((peak_gib(host) - before) * 2**30, time.perf_counter() - started)
"""


def loading_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident memory above the process's own, against the size of the weight files."""
    device = choose_device(arguments.device)
    dtype = str(choose_dtype(None, device)).removeprefix("torch.")
    with saved_checkpoint(arguments, layers=8) as folder:
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        peak, seconds = map(float, child(_CHILD, folder, device, dtype).split())
    return [
        {
            "checkpoint GB": round(size / 1e9, 2),
            "loaded as": f"{dtype} on {device}",
            "peak / checkpoint": round(peak / size, 3),
            "seconds": round(seconds, 1),
        }
    ]
