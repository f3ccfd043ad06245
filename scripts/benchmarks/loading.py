"""Peak memory and time of loading a checkpoint, in a process of its own."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.subjects import saved_checkpoint

from e5.weights import choose_device, choose_dtype

_CHILD = """
import re, sys, time
from pathlib import Path
import torch
from e5.weights import load_model
def peak():  # of this process alone; getrusage would begin with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before, started = peak(), time.perf_counter()
load_model(Path(sys.argv[1]), device=torch.device(sys.argv[2]), dtype=getattr(torch, sys.argv[3]))
print(peak() - before, time.perf_counter() - started)
"""


def loading_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident memory above the process's own, against the size of the weight files."""
    device = choose_device(arguments.device)
    dtype = str(choose_dtype(None, device)).removeprefix("torch.")
    with saved_checkpoint(arguments, layers=8) as folder:
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        command = [sys.executable, "-c", _CHILD, str(folder), str(device), dtype]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, seconds = (float(number) for number in printed.split())
    return [
        {
            "checkpoint GB": round(size / 1e9, 2),
            "loaded as": f"{dtype} on {device}",
            "peak / checkpoint": round(peak / size, 3),
            "seconds": round(seconds, 1),
        }
    ]
