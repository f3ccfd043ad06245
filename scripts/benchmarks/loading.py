"""Peak memory and time of loading a checkpoint, and the stages of a start, in child processes."""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import child
from benchmarks.models import MINI, saved_checkpoint
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
    """Peak memory that loading adds to the process, relative to the size of the weight files."""
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


_START = """
import json, sys, time
begun = float(sys.argv[2])
stages = {}
def stage(name):
    global begun
    now = time.time()
    stages[name], begun = round(now - begun, 2), now
stage("Python")
exec(sys.argv[4])  # what the command imports to do its work
from e5.checkpoint import Checkpoint
from e5.embedder import Embedder
from e5.settings import Settings
stage("imports")
from pathlib import Path
Checkpoint.find(Path(sys.argv[1]))
stage("checksums, and once more in loading")
embedder = Embedder.load(Settings(weights=sys.argv[1], device=sys.argv[3]))
stage("loading, self-check")
embedder.encode_query("what is snow")
stage("the first answer")
print(json.dumps(stages))
"""


_IMPORTS_BY_COMMAND = {
    "predict": "import predict",
    "embed_corpus": "from e5.corpora import embed_corpus",
}


def start_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from the command to the first answer, by stage: medians of the rounds.

    The rows are of the built-in checkpoint by two commands, and of one of 4 GB in the 7B model's
    shapes. The files are in the page cache.
    """
    device = choose_device(arguments.device)
    rows = []
    with saved_checkpoint(arguments, layers=8) as large:
        for command, folder in (("predict", MINI), ("embed_corpus", MINI), ("predict", large)):
            runs = [
                json.loads(child(_START, folder, time.time(), device, _IMPORTS_BY_COMMAND[command]))
                for _ in range(arguments.rounds)
            ]
            size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
            stages = {name: round(median(run[name] for run in runs), 2) for name in runs[0]}
            total = round(median(sum(run.values()) for run in runs), 2)
            head = {"command": command, "checkpoint GB": round(size / 1e9, 2)}
            rows.append({**head, **stages, "all": total})
    return rows
