"""The machine that measures: its name, its ceilings, its versions, and runs in child processes."""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import side_by_side
from e5.device import choose_device, choose_dtype


def machine_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """The machine, the versions and the command of a run, and what the machine can do at most."""
    device = choose_device(arguments.device)
    command = " ".join(["./scripts/benchmark", *sys.argv[1:]])
    return machine_versions(device) | {"command": command} | measured_ceilings(device)


def machine_versions(device: torch.device) -> dict[str, Any]:
    """The machine and the versions of a run."""
    versions = {}
    for package in ("torch", "transformers", "sentence-transformers", "cog"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": str(device),
        "dtype": str(choose_dtype(None, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "name": machine_name(device),
    }


def machine_name(device: torch.device) -> str:
    """The name of the card or of the processor; it may be empty if the system has none."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@cache
def measured_ceilings(device: torch.device) -> dict[str, float]:
    """Rates of a large matrix product and a large copy (bytes read and written), on random data."""
    size, numel = (8192, 2**29) if device.type == "cuda" else (4096, 2**26)
    dtype = choose_dtype(None, device)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.ones(numel, dtype=dtype, device=device)
    target = torch.empty_like(source)
    runs = {"matmul": lambda: a @ b, "copy": lambda: target.copy_(source)}
    times = side_by_side(runs, device)
    return {
        "matmul TFLOP/s": round(2 * size**3 / times["matmul"].median / 1e12, 3),
        "copy TB/s": round(2 * source.nbytes / times["copy"].median / 1e12, 4),
    }


def child(code: str, *arguments: object, **environment: str) -> str:
    """Run Python code in a child process that can import `e5` and `benchmarks`.

    Returns:
        What the code prints.
    """
    scripts = Path(__file__).resolve().parents[1]
    inherited = os.environ.get("PYTHONPATH", "")
    paths = {"PYTHONPATH": os.pathsep.join([str(scripts), str(scripts.parent), inherited])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environ = os.environ | paths | environment
    return subprocess.run(
        command, env=environ, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@contextmanager
def pinned(cores: list[int]) -> Iterator[None]:
    """Keep the processes that are started inside on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
