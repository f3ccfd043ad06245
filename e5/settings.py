"""Settings: every `E5_*` environment variable, read and checked in one place.

Whether a device or a folder exists is checked by the module that uses it.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from e5.errors import SettingsError, quoted

# The settings that have a few values.
_CHOICES = {
    "dtype": ("float16", "bfloat16", "float32"),
    "engine": ("packed", "transformers"),
    "quantize": ("int8", "nf4"),
}
_FLAGS = {"0": False, "false": False, "1": True, "true": True}
# The settings that are whole numbers, with their minimums.
_MINIMUMS = {
    "threads": 1,
    "max_length": 3,
    "max_batch_tokens": 1,
    "max_queue_tokens": 1,
    "cache_mb": 0,
}
_TYPES_AND_REMEDIES = {
    "compile": (bool, "use 0 or 1; in Python, False or True"),
    "weights": (str | Path, "use the path of a folder"),
    "adapter": (str | Path | None, "use the path of a folder"),
    "device": (str | None, "use cpu or cuda"),
}
_MAX_CARD_GB = 1000.0  # more than any card has, so that a number of megabytes is refused
_CARD_GB_REMEDY = f"use a number of gigabytes above 0 and up to {_MAX_CARD_GB:g}, such as 8"
# The settings that are numbers of any kind: the smallest, the largest, and the remedy for others.
_AMOUNTS = {
    "card_gb": (sys.float_info.min, _MAX_CARD_GB, _CARD_GB_REMEDY),
    "drain_seconds": (0.0, 3600.0, "use seconds from 0 to 3600"),
}
# Variables that Kubernetes sets in every pod if a service's name begins with e5, and the one that
# scripts/install reads.
_NOT_SETTINGS = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)|^E5_TORCH_INDEX$")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to load and run a checkpoint. `None`: chosen for the device.

    Attributes:
        weights: folder of the checkpoint (`E5_WEIGHTS`).
        adapter: folder of a LoRA adapter that is merged into the weights (`E5_ADAPTER`).
        device: `cpu`, `cuda` or `cuda:1` (`E5_DEVICE`); default CUDA if available.
        engine: `packed`, this project's own, or `transformers`, the unmodified model (`E5_ENGINE`).
        card_gb: gigabytes (10^9 bytes) of a card that weights and forwards may take (`E5_CARD_GB`);
            default what is free. Layers that have no room are kept in host memory.
        quantize: `int8` or `nf4`, the weights of `transformers` in 8 or 4 bits (`E5_QUANTIZE`).
        dtype: `float16`, `bfloat16` or `float32` (`E5_DTYPE`); default float16 on CUDA, bfloat16
            on a CPU that multiplies it in hardware, else float32.
        threads: CPU threads of the model (`E5_THREADS`); default the cores that may be used.
        compile: fuse small kernels by torch.compile (`E5_COMPILE`, 0 or 1): more tokens a second on
            a card, for some 12 s at the start.
        max_length: maximum tokens of a text, `<s>` and `</s>` included (`E5_MAX_LENGTH`).
        max_batch_tokens: maximum tokens computed in one forward (`E5_MAX_BATCH_TOKENS`); default
            measured from free memory on CUDA, at most 4096 or what hides the copying of streamed
            layers; 2048 on a CPU.
        max_queue_tokens: tokens that may wait before requests are refused (`E5_MAX_QUEUE_TOKENS`).
        drain_seconds: seconds for which a gateway still takes requests after SIGTERM, while its
            `/ready` already answers 503 (`E5_DRAIN_SECONDS`).
        cache_mb: megabytes (10^6 bytes) in which a service keeps vectors, so that the same texts
            are not computed again (`E5_CACHE_MB`).
    """

    weights: str | Path = "weights/e5-mistral-7b-instruct"
    adapter: str | Path | None = None
    device: str | None = None
    engine: str = "packed"
    card_gb: float | None = None
    quantize: str | None = None
    dtype: str | None = None
    threads: int | None = None
    compile: bool = False
    max_length: int = 4096
    max_batch_tokens: int | None = None
    max_queue_tokens: int = 1_000_000
    drain_seconds: float = 1.0
    cache_mb: int = 0

    def __post_init__(self) -> None:
        """Refuse values that are wrong on every machine."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not getattr(Settings, name) and value not in choices:
                remedy = f"use one of {', '.join(choices)}"
                raise SettingsError(f"E5_{name.upper()}", repr(value), remedy)
        for name, minimum in _MINIMUMS.items():
            value = getattr(self, name)
            if value is getattr(Settings, name):  # the default
                continue
            if type(value) is not int or value < minimum:
                remedy = f"use a whole number from {minimum} on"
                raise SettingsError(f"E5_{name.upper()}", repr(value), remedy)
        for name, (allowed, remedy) in _TYPES_AND_REMEDIES.items():
            if not isinstance(getattr(self, name), allowed):
                raise SettingsError(f"E5_{name.upper()}", quoted(getattr(self, name)), remedy)
        for name, (smallest, largest, remedy) in _AMOUNTS.items():
            value = getattr(self, name)
            if value is getattr(Settings, name):
                continue
            if type(value) not in (int, float) or not smallest <= value <= largest:
                raise SettingsError(f"E5_{name.upper()}", quoted(value), remedy)
        if self.engine == "packed" and self.quantize is not None:
            received = f"{self.quantize!r} with E5_ENGINE=packed"
            remedy = "set E5_ENGINE=transformers, or unset it"
            raise SettingsError("E5_QUANTIZE", received, remedy)

    @property
    def cache_bytes(self) -> int:
        """`cache_mb` in bytes."""
        return self.cache_mb * 10**6

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read `E5_WEIGHTS`, `E5_DEVICE`, ...; unset or empty ones keep their defaults.

        Raises:
            SettingsError: for a value of the wrong type, or a variable `E5_*` that does not exist
                (most likely a misspelt one).

        Example:
            >>> Settings.from_env({"E5_MAX_LENGTH": "512"}).max_length
            512
        """
        known = {f"E5_{field.name.upper()}": field.name for field in fields(cls)}
        values: dict[str, str | float] = {}
        for variable in sorted(name for name in environ if name.startswith("E5_")):
            name, text = known.get(variable), environ[variable].strip()
            if name is None:
                if _NOT_SETTINGS.search(variable):
                    continue
                remedy = f"use one of {', '.join(known)}"
                raise SettingsError(variable, "a setting that does not exist", remedy)
            if name == "compile" and text:
                values[name] = _FLAGS.get(text.lower(), text)
            elif text:
                kind = int if name in _MINIMUMS else float if name in _AMOUNTS else str
                try:
                    values[name] = kind(text)
                except ValueError as error:
                    remedy = "use a whole number" if kind is int else _AMOUNTS[name][2]
                    raise SettingsError(variable, repr(text[:40]), remedy) from error
        return cls(**values)  # type: ignore[arg-type]  # each kind is the field's type
