"""Where a model runs, in which dtype, with how many threads: as set, or the best of the machine.

Asks torch and the system what there is. Knows nothing of checkpoints or models.
"""

import logging
import math
import os
from pathlib import Path

import torch

from e5.errors import EngineError, SettingsError

logger = logging.getLogger(__name__)


LEAST_CAPABILITY = (8, 0)  # FlashAttention's; a T4 has 7.5
LARGE = 4_000_000_000  # bytes of weights; a forward of more takes a CPU minutes


def choose_device(device: str | None, *, weight_bytes: int = 0) -> torch.device:
    """The requested device; by default CUDA if available, else the CPU.

    Args:
        device: as the settings have it.
        weight_bytes: of the checkpoint that will run there.

    Raises:
        SettingsError: for a device that torch does not know or cannot reach, a card that is too
            old, or a large model on a CPU that nobody asked for.
    """
    if device is None:
        if torch.cuda.is_available():
            return _checked(torch.device("cuda"))
        if torch.version.cuda is not None:
            _without_a_card(weight_bytes)
        return torch.device("cpu")
    remedy = f"E5_DEVICE: received {device!r}, which cannot be used here; use cpu or cuda."
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except Exception as error:  # each kind of device raises its own
        raise SettingsError(remedy) from error
    if chosen.type not in ("cpu", "cuda"):
        raise SettingsError(remedy)
    return _checked(chosen)


def _without_a_card(weight_bytes: int) -> None:
    """A build of torch for cards on a machine where it finds none."""
    found = "E5_DEVICE: not set, this torch is built for CUDA, and it finds no card that works"
    if weight_bytes > LARGE:
        raise SettingsError(
            f"{found}; mend the driver, or set E5_DEVICE=cpu to run {weight_bytes / 1e9:.1f} GB of "
            "weights on the CPU."
        )
    logger.warning("%s: the model RUNS ON THE CPU. Set E5_DEVICE=cuda to make that an error", found)


def _checked(device: torch.device) -> torch.device:
    """The device itself, if it is new enough."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            name, found = torch.cuda.get_device_name(device), ".".join(map(str, capability))
            least = ".".join(map(str, LEAST_CAPABILITY))
            raise SettingsError(
                f"E5_DEVICE: {name} has compute capability {found}, and {least} is needed; use "
                "an A40, L40S, A100 or newer."
            )
    return device


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The requested dtype; by default the fastest one that is accurate enough on the device.

    That is float16 on CUDA, in which the 7B weights are published; bfloat16 on a CPU that
    multiplies it in hardware (AVX512-BF16 or AMX; float16 is 14 times slower there); else float32.
    """
    if dtype is not None:
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device.type == "cuda":
        return torch.float16
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


def set_threads(threads: int | None) -> None:
    """Have torch compute with `choose_threads(threads)`, in the whole process, and log it.

    In bfloat16 it makes a program for each number of rows, and by itself would keep 1024 of them:
    200 MB that are reached after many thousand requests. A few are as fast.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # read at the first product
    torch.set_num_threads(choose_threads(threads))
    logger.info("%d CPU threads", torch.get_num_threads())


def choose_threads(threads: int | None, *, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The requested number of CPU threads; by default one for each core that may be used.

    That is at most torch's own choice (physical cores, or OMP_NUM_THREADS), the cores that this
    process may run on, and the container's quota. With one thread more than there are cores, those
    that wait for each other take many times as long.

    Args:
        threads: as the settings have it.
        cgroups: where the system shows the container's limits.
    """
    if threads is not None:
        return threads
    allowed = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    return max(1, int(min(allowed, _quota(cgroups))))


def _quota(cgroups: Path) -> float:
    """Cores' worth of time that the container may take; infinity without a limit.

    A container sees its own group at the root: `cpu.max` in version 2 of cgroups (quota and period
    in microseconds), two files in version 1.
    """
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroups / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # max
        return math.inf
    return limit if limit > 0 else math.inf  # -1


class ForkGuard:
    """The process that something was loaded in, and cannot be used in another one.

    A fork has none of its parent's threads: OpenMP, CUDA and locks would wait for them for ever.
    """

    def __init__(self) -> None:
        """Remember this one."""
        self._number = os.getpid()

    def check(self) -> None:
        """Refuse another process.

        Raises:
            EngineError: in a fork.
        """
        if os.getpid() != self._number:
            raise EngineError(
                "the model was loaded before this process was forked, and cannot compute here; "
                "load it after the fork, or start processes by spawn."
            )
