"""Where a model runs and in which dtype: as the settings say, or the best of this machine.

Asks torch what the machine offers. Knows nothing of checkpoints or models.
"""

import logging

import torch

from e5.errors import SettingsError

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
