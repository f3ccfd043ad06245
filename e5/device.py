"""The device, the dtype and the threads of a model: as set, or the best that the machine has."""

import logging
import os
from pathlib import Path

import torch

from e5.attention import has_flash_attention
from e5.errors import EngineError, SettingsError, shortened
from e5.machine import CGROUPS, usable_cores

logger = logging.getLogger(__name__)

MIN_CAPABILITY = (7, 0)  # a V100's; older cards multiply float16 slowly
MAX_CPU_WEIGHT_BYTES = 4_000_000_000  # a CPU takes minutes for a forward of more
MAX_REASON = 300  # characters of torch's reason why a card cannot be used


def choose_device(
    device: str | None, *, weight_bytes: int = 0, min_capability: tuple[int, int] = MIN_CAPABILITY
) -> torch.device:
    """The requested device; by default CUDA if available, else the CPU.

    Raises:
        SettingsError: for a device that torch does not know or cannot reach, a card that is too
            old, or a large model on a CPU that nobody asked for.
    """
    if device is None:
        if not torch.cuda.is_available():
            if torch.version.cuda is not None:
                _warn_or_refuse_cpu(weight_bytes)
            return torch.device("cpu")
        chosen = torch.device("cuda")
    else:
        try:
            chosen = torch.device(device)
            if chosen.type not in ("cpu", "cuda"):
                raise RuntimeError("a device of another kind")
        except Exception as error:  # torch raises many kinds, for an index of many digits another
            received = f"{device!r}, which cannot be used here"
            raise SettingsError("E5_DEVICE", received, "use cpu or cuda") from error
        if chosen.type == "cuda" and (failure := _failure(chosen)):
            received = f"{device!r}, which cannot be used here ({failure})"
            remedy = "give the container a card (docker run --gpus all), or try it without one"
            remedy += " by E5_DEVICE=cpu and E5_WEIGHTS=weights/e5-mini"
            raise SettingsError("E5_DEVICE", received, remedy)
    if chosen.type == "cuda":
        capability = torch.cuda.get_device_capability(chosen)
        if capability < min_capability:
            has, needs = (".".join(map(str, each)) for each in (capability, min_capability))
            name = torch.cuda.get_device_name(chosen)
            received = f"{name}, whose compute capability is {has} and has to be at least {needs}"
            remedy = "set E5_ENGINE=transformers, or use a newer card (docs/cards.md)"
            raise SettingsError("E5_DEVICE", received, remedy)
    return chosen


def _failure(device: torch.device) -> str:
    """Torch's reason why a card cannot be used; "" if it can."""
    try:
        torch.empty(1, device=device)
    except Exception as error:  # no CUDA in torch is an AssertionError, no driver a RuntimeError
        first_line = str(error).partition("\n")[0].strip(" .")
        return f"torch: {shortened(first_line, most=MAX_REASON)}"
    return ""


def _warn_or_refuse_cpu(weight_bytes: int) -> None:
    """Warn that a CUDA build of torch computes on the CPU unasked; refuse it for a large model."""
    failure = _failure(torch.device("cuda"))
    received = f"no value, and torch, which is built for CUDA, finds no card that works ({failure})"
    if weight_bytes > MAX_CPU_WEIGHT_BYTES:
        size = f"{weight_bytes / 1e9:.1f} GB"
        remedy = f"repair the driver, or set E5_DEVICE=cpu to run {size} of weights on the CPU"
        raise SettingsError("E5_DEVICE", received, remedy)
    remedy = "the model RUNS ON THE CPU. Set E5_DEVICE=cuda to make that an error"
    logger.warning("E5_DEVICE: received %s: %s", received, remedy)


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The requested dtype; by default the fastest one that is accurate enough on the device.

    That is float16 on CUDA, in which the 7B weights are published; bfloat16 on a CPU that
    multiplies it in hardware (AVX512-BF16 or AMX; float16 is 14 times slower there); else float32.

    Raises:
        SettingsError: for bfloat16 on a card that does not multiply it.
    """
    if dtype is not None:
        chosen: torch.dtype = getattr(torch, dtype)
        if chosen == torch.bfloat16 and device.type == "cuda" and not has_flash_attention(device):
            received = f"'bfloat16', which {torch.cuda.get_device_name(device)} does not multiply"
            raise SettingsError("E5_DTYPE", received, "use float16 or float32")
        return chosen
    if device.type == "cuda":
        return torch.float16
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


def set_threads(threads: int | None) -> None:
    """Set the CPU threads of torch in the whole process to `choose_threads(threads)`.

    Also limits a cache: in bfloat16 oneDNN compiles a program for each number of rows and keeps
    1024 of them, which are 200 MB after many thousand requests. 64 are as fast.

    Raises:
        SettingsError: for more threads than torch can count.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # read at the first product
    try:
        torch.set_num_threads(choose_threads(threads))
    except ValueError as error:  # too large for torch's integer
        remedy = "use the number of cores, or unset E5_THREADS"
        raise SettingsError("E5_THREADS", shortened(str(threads)), remedy) from error
    logger.info("%d CPU threads", torch.get_num_threads())


def choose_threads(threads: int | None, *, cgroups: Path = CGROUPS) -> int:
    """The requested number of CPU threads; by default one for each core that may be used.

    The default is the lesser of torch's own choice (physical cores, or OMP_NUM_THREADS) and
    `usable_cores`. A single thread more than there are cores makes all threads wait, and a forward
    many times slower.
    """
    if threads is not None:
        return threads
    return min(torch.get_num_threads(), usable_cores(cgroups=cgroups))


class ForkGuard:
    """Refuses to use in a forked process what was loaded in its parent.

    A fork has none of its parent's threads; OpenMP, CUDA and locks would wait for them for ever.
    """

    def __init__(self) -> None:
        self._process_id = os.getpid()

    def check(self) -> None:
        """Raise an EngineError in a fork."""
        if os.getpid() != self._process_id:
            raise EngineError(
                "the model was loaded before this process was forked, and cannot compute here; "
                "load it after the fork, or start processes by spawn."
            )
