"""A LoRA adapter in peft's format: read, checked, and merged into weights while they are loaded.

W + s B A for each adapted linear layer (Hu et al. 2021, eq. 3), where s is lora_alpha / r, or
lora_alpha / sqrt(r) with use_rslora (Kalajdzievski 2023). Nothing is unpickled.
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

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Stands before a layer's name: in a MistralModel, or in one inside a MistralForCausalLM.
PREFIX = re.compile(r"^base_model\.model\.(model\.)?")
PAIR = re.compile(r"^(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight$")
# Settings that say how the adapter was trained, or are read here. Others would change the formula.
KNOWN = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern"),
    *("layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config"),
    *("megatron_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r"),
    *("revision", "runtime_config", "target_modules", "task_type", "use_rslora"),
}
HUB_NAME_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")
MERGE_WITH_PEFT = (
    "merge the adapter with peft (merge_and_unload) and serve the result by E5_WEIGHTS"
)


@dataclass(frozen=True)
class LoraAdapter:
    """LoRA weights that are merged into a checkpoint's weights.

    Attributes:
        folder: the folder it was read from.
        digests: sha256 of its files.
        base: the model that it was trained on, as its configuration names it; "" if it does not.
        scale: the factor s of each product B A.
        pairs: name of an adapted weight -> A `[r, in_features]` and B `[out_features, r]`.
    """

    folder: Path
    digests: Mapping[str, str]
    base: str
    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def read(cls, folder: Path) -> "LoraAdapter":
        """Read a folder; WeightsError for a file that is missing, damaged or not supported."""
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                needed = "a folder that peft's save_pretrained wrote as safetensors"
                remedy = f"set E5_ADAPTER to {needed}"
                raise WeightsError(folder / name, "the file is missing", remedy)
        config = _read_config(folder / ADAPTER_CONFIG)
        rank, alpha = config["r"], config["lora_alpha"]
        weights = folder / ADAPTER_WEIGHTS
        try:
            tensors = load_file(weights)
        except SafetensorError as error:
            received = f"damaged, or not a safetensors file ({error})"
            raise WeightsError(weights, received, "copy it again") from error
        factors: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            match = PAIR.match(PREFIX.sub("", name))
            if match is None or not tensor.is_floating_point() or tensor.ndim != 2:
                received = f"tensor {quoted(name)} is not A or B of a linear layer"
                raise WeightsError(weights, received, MERGE_WITH_PEFT)
            factors.setdefault(f"{match['layer']}.weight", {})[match["factor"]] = tensor
        pairs = {}
        for name, factor in factors.items():
            a, b = factor.get("A"), factor.get("B")
            if a is None or b is None or not len(a) == b.shape[1] == rank:
                received = f"A and B of {quoted(name)} do not both have rank r = {rank}"
                raise WeightsError(weights, received, "copy the adapter again")
            pairs[name] = a, b
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        base = str(config.get("base_model_name_or_path") or "")
        digests = hash_files(folder, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
        return cls(folder, digests, base, scale, pairs)

    def check(self, shapes: Mapping[str, torch.Size], *, source: str) -> None:
        """Refuse an adapter of another model by a WeightsError.

        Args:
            shapes: the shapes of the checkpoint's tensors, by name.
            source: the origin that the checkpoint's manifest names; "" without a manifest.
        """
        origin = source.partition(" ")[0]
        both_named = HUB_NAME_PATTERN.fullmatch(origin) and HUB_NAME_PATTERN.fullmatch(self.base)
        if both_named and Path(origin).name != Path(self.base).name:  # a copy keeps the name
            base = quoted(self.base)
            received = f"the adapter was trained on {base}, and the weights are {origin}"
            raise WeightsError(self.folder / ADAPTER_CONFIG, received, "use the adapter's own base")
        for name, (a, b) in self.pairs.items():
            product = torch.Size((len(b), a.shape[1]))
            if shapes.get(name) != product:
                actual = list(shapes[name]) if name in shapes else "no such tensor"
                received = f"{quoted(name)} asks for {list(product)}, and the weights have {actual}"
                file = self.folder / ADAPTER_WEIGHTS
                raise WeightsError(file, received, "use an adapter of this model")

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight plus s B A, in float32; a weight without a pair stays as it is."""
        if name not in self.pairs:
            return weight
        a, b = (factor.float() for factor in self.pairs[name])
        return weight.float() + self.scale * (b @ a)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        received = f"not a configuration of a LoRA adapter ({error})"
        raise WeightsError(path, received, "copy the adapter again") from error
    if kind != "LORA":
        received = f"peft_type is {quoted(kind)}, and only LORA is merged here"
        raise WeightsError(path, received, MERGE_WITH_PEFT)
    if not (type(rank) is int and rank > 0 and type(alpha) in (int, float)):
        received = f"r is {quoted(rank)} and lora_alpha is {quoted(alpha)}"
        remedy = "set r to a whole number above 0 and lora_alpha to a number"
        raise WeightsError(path, received, remedy)
    for name, value in config.items():
        if name not in KNOWN and value not in (None, False, {}, [], "none"):
            received = f"it sets {name}, which is not merged here"
            raise WeightsError(path, received, MERGE_WITH_PEFT)
    return dict(config)
