"""Where a model runs and in which dtype: what settings ask for, or what is best on this machine.

Knows what torch can reach here. Knows nothing of checkpoints or models.
"""

import torch

from e5.errors import SettingsError


def choose_device(device: str | None) -> torch.device:
    """The device asked for, or CUDA where there is one.

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
    """The dtype asked for, or the fastest that is faithful on the device.

    float16 on CUDA, the checkpoint's own. bfloat16 on a CPU that multiplies it in hardware
    (AVX512-BF16 or AMX; float16 is 14 times slower there), else float32.
    """
    if dtype is not None:
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device.type == "cuda":
        return torch.float16
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32
