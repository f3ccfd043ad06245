"""A LoRA adapter in peft's format: read, checked, and merged into weights while they are loaded.

W + s B A for each adapted linear layer (Hu et al. 2021, eq. 3), where s is lora_alpha / r, or
lora_alpha / sqrt(r) with use_rslora (Kalajdzievski 2023). Knows nothing of models, only their
tensors' names and shapes; unpickles nothing.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from e5.checkpoint import hash_files
from e5.errors import WeightsError, quoted

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Before a layer's name: an adapter of a MistralModel, and of one inside a MistralForCausalLM.
PREFIX = re.compile(r"^base_model\.model\.(model\.)?")
PAIR = re.compile(r"^(?P<layer>.+)\.lora_(?P<half>[AB])\.weight$")
# What says how it was trained, or is read here. Anything else that is set changes the formula.
KNOWN = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern"),
    *("layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config"),
    *("megatron_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r"),
    *("revision", "runtime_config", "target_modules", "task_type", "use_rslora"),
}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class LoraAdapter:
    """What is added to a checkpoint's weights.

    Attributes:
        folder: where it was read.
        digests: sha256 of its files.
        base: the model that it was trained on, as its configuration names it; "" if it does not.
        scale: of each product.
        pairs: name of an adapted weight -> A `[r, in_features]` and B `[out_features, r]`.
    """

    folder: Path
    digests: Mapping[str, str]
    base: str
    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def read(cls, folder: Path) -> "LoraAdapter":
        """Read an adapter's folder.

        Raises:
            WeightsError: naming the file that is missing, damaged or asks for what is not done.
        """
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise WeightsError(
                    f"{folder / name}: the file is missing; E5_ADAPTER wants a folder as peft's "
                    "save_pretrained writes it, with safetensors."
                )
        config = _config(folder / CONFIG)
        rank, alpha = config["r"], config["lora_alpha"]
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise WeightsError(
                f"{folder / WEIGHTS}: damaged, or not a safetensors file ({error}); copy it again."
            ) from error
        halves: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            match = PAIR.match(PREFIX.sub("", name))
            if match is None or not tensor.is_floating_point() or tensor.ndim != 2:
                raise WeightsError(
                    f"{folder / WEIGHTS}: tensor {quoted(name)} is no A or B of a linear layer; "
                    "only those are merged."
                )
            halves.setdefault(f"{match['layer']}.weight", {})[match["half"]] = tensor
        pairs = {}
        for name, half in halves.items():
            a, b = half.get("A"), half.get("B")
            if a is None or b is None or not len(a) == b.shape[1] == rank:
                raise WeightsError(
                    f"{folder / WEIGHTS}: A and B of {quoted(name)} are not both of rank {rank}, "
                    f"as {CONFIG} says; copy the adapter again."
                )
            pairs[name] = a, b
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        base = str(config.get("base_model_name_or_path") or "")
        return cls(folder, hash_files(folder, [CONFIG, WEIGHTS]), base, scale, pairs)

    def check(self, shapes: Mapping[str, torch.Size], *, source: str) -> None:
        """Refuse an adapter of another model.

        Args:
            shapes: of the checkpoint's tensors, by name.
            source: what the checkpoint's manifest says of its origin; "" without one.

        Raises:
            WeightsError: naming the base or the tensor that does not fit.
        """
        known = source.partition(" ")[0]
        named = HUB_NAME.fullmatch(known) and HUB_NAME.fullmatch(self.base)
        if named and Path(known).name != Path(self.base).name:  # a copy keeps the name
            raise WeightsError(
                f"{self.folder / CONFIG}: the adapter was trained on {quoted(self.base)}, and the "
                f"weights are {known}; use the adapter's own base."
            )
        for name, (a, b) in self.pairs.items():
            product = torch.Size((len(b), a.shape[1]))
            if shapes.get(name) != product:
                found = list(shapes[name]) if name in shapes else "no such tensor"
                raise WeightsError(
                    f"{self.folder / WEIGHTS}: {quoted(name)} asks for {list(product)}, and the "
                    f"weights have {found}; the adapter is another model's."
                )

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its product added, in float32; one without a pair is left as it is."""
        if name not in self.pairs:
            return weight
        a, b = (half.float() for half in self.pairs[name])
        return weight.float() + self.scale * (b @ a)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a configuration of a LoRA adapter ({error}).") from error
    if kind != "LORA":
        raise WeightsError(f"{path}: peft_type is {quoted(kind)}; only 'LORA' is merged.")
    if not (type(rank) is int and rank > 0 and type(alpha) in (int, float)):
        raise WeightsError(f"{path}: r is {quoted(rank)} and lora_alpha {quoted(alpha)}.")
    unset: tuple[object, ...] = (None, False, {}, [], "none")
    unknown = [name for name, value in config.items() if name not in KNOWN and value not in unset]
    if unknown:
        raise WeightsError(
            f"{path}: sets {unknown[0]}, which is not merged here; merge the adapter with peft "
            "(merge_and_unload) and serve the result by E5_WEIGHTS."
        )
    return dict(config)
