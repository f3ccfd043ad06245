"""Weights in 8 or 4 bits, by bitsandbytes: the configuration for transformers, and a safe import.

bitsandbytes has both, needs no data to calibrate, and runs on old cards (8 bits from compute
capability 7.5 on, 4 bits from 6.0) and on CPUs. torchao, the other such library that transformers
drives, has no nf4. What quantised weights cost is in docs/cards.md.
"""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from e5.errors import SettingsError

QUANTISED_BY = "bitsandbytes"  # its name in a checkpoint's quantization_config
# The settings of the papers, LLM.int8() and QLoRA (Dettmers et al. 2022 and 2023).
_OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,  # 0.4 bits less for each weight
    },
}


def quantization(name: str, dtype: torch.dtype) -> Any:
    """The `quantization_config` of `from_pretrained` for a value of `E5_QUANTIZE`.

    Matrix products are computed in `dtype`.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**_OPTIONS[name], bnb_4bit_compute_dtype=dtype)


def import_bitsandbytes(field: str) -> None:
    """Import bitsandbytes without network; SettingsError about `field` if it is not installed.

    On some processors it would fetch a kernel from the hub while it is imported, if the package
    `kernels` is installed.
    """
    if find_spec("bitsandbytes") is None:
        received = "quantised weights, and bitsandbytes is not installed"
        raise SettingsError(field, received, 'install the extra "quantize"')
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of each product in 8 bits
    kernels = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # so that an import of it fails
    try:
        import_module("bitsandbytes")
    finally:
        sys.modules.pop("kernels")
        if kernels is not None:
            sys.modules["kernels"] = kernels
