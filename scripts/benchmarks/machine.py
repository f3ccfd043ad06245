"""The machine that measures: its name, its ceilings, seconds, peaks of memory, other processes.

Knows nothing of models, texts or the systems that are compared.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from e5.device import choose_device, choose_dtype


def best_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The shortest of `repeats` runs, after one that warms up where a run is short."""
    seconds: list[float] = []
    while len(seconds) < repeats:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1 and seconds[0] < 5:
            repeats += 1  # the first of short runs is the slowest
    return min(seconds)


def machine_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures were taken on, with which versions, by which command."""
    device = choose_device(arguments.device)
    versions = {}
    for package in ("torch", "transformers", "sentence-transformers", "cog"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": str(device),
        "dtype": str(choose_dtype(None, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "command": " ".join(["./scripts/benchmark", *sys.argv[1:]]),
    }
    return facts | {"name": _name(device)} | measured_ceilings(device)


def _name(device: torch.device) -> str:
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
    seconds = best_seconds(lambda: a @ b, device, 5)
    source = torch.ones(numel, dtype=dtype, device=device)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), device, 5)
    return {
        "matmul TFLOP/s": round(2 * size**3 / seconds / 1e12, 3),
        "copy TB/s": round(2 * source.nbytes / copy / 1e12, 4),
    }


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


def child(code: str, *arguments: object, **environment: str) -> str:
    """What Python code prints in a process of its own, which finds `e5` and `benchmarks`."""
    scripts = Path(__file__).resolve().parents[1]
    paths = {"PYTHONPATH": f"{scripts}{os.pathsep}{scripts.parent}"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environ = os.environ | paths | environment
    return subprocess.run(
        command, env=environ, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
