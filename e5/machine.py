"""The cores, the memory and the cards of this machine that a process may use.

It needs no torch, because the process that starts the others uses it.
"""

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")  # a container sees its own group there
MEMINFO = Path("/proc/meminfo")
CARDS_VARIABLE = "CUDA_VISIBLE_DEVICES"
CARDS_SECONDS = 120.0  # a driver that is not resident takes seconds for each card
# What torch counts, too; in a process of its own, because a driver that is open keeps memory.
COUNT_CARDS = """
import ctypes
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
print(0 if failed else count.value)
"""


def usable_cores(*, cgroups: Path = CGROUPS) -> int:
    """The number of cores that this process may run on, within the container's quota.

    On macOS, which binds a process to none, that is all of them.
    """
    bound = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    return max(1, int(min(allowed, _quota(cgroups))))


def _quota(cgroups: Path) -> float:
    """The number of cores that the container may use; infinity without a limit.

    That is `cpu.max` in version 2 of cgroups (quota and period in microseconds), and two files in
    version 1.
    """
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such files; a quota of "max"
            text = " ".join((cgroups / file).read_text() for file in files)
            quota, period = map(int, text.split())
            return quota / period if quota > 0 else math.inf  # -1: none
    return math.inf


def available_host_bytes(*, cgroups: Path = CGROUPS, meminfo: Path = MEMINFO) -> float:
    """The host memory that this process may still take: of the machine, within the container's.

    Pages of files that were read count as free. Infinity if the system does not say.
    """
    available = math.inf
    with suppress(OSError, KeyError, ValueError):
        available = 1024 * _numbers(meminfo)["MemAvailable:"]
    for group, limit, usage, cached in (
        (cgroups, "max", "current", "inactive_file"),  # version 2 of cgroups, and version 1
        (cgroups / "memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such files; a limit of "max"
            most, used = (int((group / f"memory.{name}").read_text()) for name in (limit, usage))
            unused = _numbers(group / "memory.stat").get(cached, 0)
            available = min(available, most - used + unused)
    return available


def _numbers(file: Path) -> dict[str, int]:
    """A file in which each line is a name and a number, and perhaps a unit."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}


def find_cards(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The cards that a process with this environment can use, each as CUDA_VISIBLE_DEVICES has it.

    The driver counts them, so a list in CUDA_VISIBLE_DEVICES ends for us where it ends for CUDA: at
    the first entry that is no card. Of several MIG instances CUDA gives a process the first alone;
    here each of the list counts.
    """
    given = environ.get(CARDS_VARIABLE)
    names = None if given is None else [name.strip() for name in given.split(",")]
    if names and all(name.startswith("MIG-") for name in names):
        return names
    command = [sys.executable, "-I", "-c", COUNT_CARDS]
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, timeout=CARDS_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):  # there is no driver, or it hangs
        return []
    count = int(done.stdout)
    return list(map(str, range(count))) if names is None else names[:count]
