"""Where a model runs and in which dtype: as the settings say, or the best of this machine.

Asks torch what the machine offers. Knows nothing of checkpoints or models.
"""

import torch

from e5.errors import SettingsError


def choose_device(device: str | None) -> torch.device:
    """The requested device; by default CUDA if available, else the CPU.

    Raises:
        SettingsError: for a device that torch does not know or cannot reach.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = f"E5_DEVICE: received {device!r}, which cannot be used here; use cpu or cuda."
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(remedy) from error
    if chosen.type not in ("cpu", "cuda"):
        raise SettingsError(remedy)
    return chosen


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
