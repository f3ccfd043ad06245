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

from e5.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, hash_files
from e5.declarations import Declarations
from e5.errors import WeightsError, quoted, shortened
from e5.lora_targets import targeted_modules
from e5.mistral import ARCHITECTURES
from e5.tensor_names import without_wrappers

# The name of an A or a B: the prefix of the MistralModel, the layer, and the adapter's own name if
# it was not removed (`lora_A.default.weight`).
FACTOR = re.compile(
    r"(?P<root>(?:.*\.)?)(?P<layer>layers\.\d+\.[\w.]+)"
    r"\.lora_(?P<factor>[AB])\.(?:(?P<adapter>[^.]+)\.)?weight"
)
FACTOR_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Settings that only say how the adapter was trained, or that are read here. All others are refused,
# because they would change the formula.
KNOWN_SETTINGS = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights"),
    *("layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout"),
    *("lora_ga_config", "megatron_config", "megatron_core", "peft_type", "peft_version"),
    *("qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type"),
    "use_rslora",
}
HUB_NAME_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")
MERGE_WITH_PEFT = (
    "merge the adapter with peft (merge_and_unload) and serve the result by E5_WEIGHTS"
)
# peft's values of init_lora_weights: those that leave the base as it was, and those that change it
# before the training. peft's own conversion of an adapter of the latter kind writes `true`.
KEEPS_BASE = ("eva", "gaussian", "mica", "orthogonal")
CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga")
COPY_AGAIN = "copy or save the adapter again"


@dataclass(frozen=True)
class LoraAdapter:
    """LoRA weights that are merged into a checkpoint's weights.

    Attributes:
        folder: the folder it was read from.
        digests: sha256 of its files.
        config: its configuration, checked.
        declarations: what the folder's other files say of the model that was trained.
        scale: the factor s of each product B A.
        root: the prefix of the layers' names in the model that was trained, such as `model.`.
        pairs: name of an adapted weight -> A `[r, in_features]` and B `[out_features, r]`.
    """

    folder: Path
    digests: Mapping[str, str]
    config: Mapping[str, Any]
    declarations: Declarations
    scale: float
    root: str
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
        root, pairs = _read_pairs(folder / ADAPTER_WEIGHTS, config["r"])
        rank, alpha = config["r"], config["lora_alpha"]
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        digests = hash_files(folder, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
        return cls(folder, digests, config, Declarations.read(folder), scale, root, pairs)

    @property
    def base(self) -> str:
        """The model that it was trained on, as its configuration names it; "" if it does not."""
        return str(self.config.get("base_model_name_or_path") or "")

    def check(self, shapes: Mapping[str, torch.Size], *, source: str) -> None:
        """Refuse an adapter of another model, or one that is not whole, by a WeightsError.

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
        file = self.folder / ADAPTER_WEIGHTS
        for name, (a, b) in self.pairs.items():
            product = torch.Size((len(b), a.shape[1]))
            if shapes.get(name) != product:
                actual = list(shapes[name]) if name in shapes else "no such tensor"
                received = f"{_shown(name)} needs {list(product)}, and the weights have {actual}"
                raise WeightsError(file, received, "use an adapter of this model")
        matrices = [
            name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2
        ]
        try:
            named = targeted_modules(self.config, [self.root + name for name in matrices])
        except ValueError as error:
            received = f"target_modules and its kin cannot be read ({error})"
            raise WeightsError(self.folder / ADAPTER_CONFIG, received, COPY_AGAIN) from error
        held = {self.root + name.removesuffix(".weight") for name in self.pairs}
        if missing := sorted(named - held):
            received = f"{ADAPTER_CONFIG} names {_few(missing)}, and the file has no A and B of it"
            raise WeightsError(file, received, COPY_AGAIN)
        if extra := sorted(held - named):
            received = f"it has A and B of {_few(extra)}, which {ADAPTER_CONFIG} does not name"
            raise WeightsError(file, received, COPY_AGAIN)

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight plus s B A, in float32; a weight without a pair stays as it is."""
        if name not in self.pairs:
            return weight
        a, b = (factor.float() for factor in self.pairs[name])
        return weight.float() + self.scale * (b @ a)


def _shown(name: str) -> str:
    """A tensor's name, for an error."""
    return f'"{shortened(name, 150)}"'


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _read_pairs(path: Path, rank: int) -> tuple[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The prefix of the layers' names, and A and B of each adapted weight by its name."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        received = f"damaged, or not a safetensors file ({error})"
        raise WeightsError(path, received, COPY_AGAIN) from error
    if not tensors:
        raise WeightsError(path, "it holds no tensors", "save the adapter again")
    names: dict[tuple[str, str], str] = {}  # weight, A or B -> the name of its tensor
    origins: dict[tuple[str, str | None], str] = {}  # prefix, adapter's name -> the first tensor
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(without_wrappers(name))
        if match is None:
            received = f"tensor {_shown(name)} is not A or B of a linear layer of a MistralModel"
            raise WeightsError(path, received, MERGE_WITH_PEFT)
        _check_factor(path, name, tensor)
        factor = f"{match['layer']}.weight", match["factor"]
        origins.setdefault((match["root"], match["adapter"]), name)
        if factor in names or len(origins) > 1:
            other = names.get(factor, next(iter(origins.values())))
            received = f"tensors {_shown(other)} and {_shown(name)} are of two adapters"
            raise WeightsError(path, received, "save each adapter in a folder of its own")
        names[factor] = name
    pairs = {}
    for weight in {weight: None for weight, _ in names}:
        a, b = (tensors.get(names.get((weight, factor), "")) for factor in "AB")
        if a is None or b is None or not len(a) == b.shape[1] == rank:
            received = f"A and B of {_shown(weight)} do not both have rank r = {rank}"
            raise WeightsError(path, received, COPY_AGAIN)
        pairs[weight] = a, b
    ((root, _),) = origins
    return root.removeprefix("base_model.model."), pairs


def _check_factor(path: Path, name: str, tensor: torch.Tensor) -> None:
    if tensor.numel() == 0 or tensor.ndim == 1:
        shape = list(tensor.shape)
        received = (
            f"tensor {_shown(name)} has shape {shape}: a part of it was saved, as by DeepSpeed"
        )
        remedy = "gather the weights before save_pretrained (ZeRO-3: zero.GatheredParameters)"
        raise WeightsError(path, received, remedy)
    if tensor.dtype not in FACTOR_DTYPES or tensor.ndim != 2:
        is_another = f"is {tensor.dtype} with {tensor.ndim} axes, and A and B are floats with 2"
        raise WeightsError(path, f"tensor {_shown(name)} {is_another}", MERGE_WITH_PEFT)
    if not tensor.isfinite().all():
        received = f"tensor {_shown(name)} holds NaN or infinity"
        raise WeightsError(path, received, "take an earlier state of the training")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        kind, rank, alpha = config["peft_type"], config.get("r"), config.get("lora_alpha")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        received = f"not a configuration of a LoRA adapter ({error})"
        raise WeightsError(path, received, COPY_AGAIN) from error
    if kind != "LORA":
        received = f"peft_type is {quoted(kind)}, and only LORA is merged here"
        raise WeightsError(path, received, f"use a LoRA adapter, or {MERGE_WITH_PEFT}")
    is_number = type(alpha) in (int, float) and math.isfinite(alpha)
    if not (type(rank) is int and rank > 0 and is_number):
        received = f"r is {quoted(rank)} and lora_alpha is {quoted(alpha)}"
        remedy = "set r to a whole number above 0 and lora_alpha to a number"
        raise WeightsError(path, received, remedy)
    for name, value in config.items():
        if name not in KNOWN_SETTINGS and value not in (None, False, {}, [], "none"):
            received = f"it sets {name}, which is not merged here"
            raise WeightsError(path, received, MERGE_WITH_PEFT)
    mapping = config.get("auto_mapping") or {}
    trained = mapping.get("base_model_class") if isinstance(mapping, dict) else mapping
    if str(trained).startswith("Mistral") and trained not in ARCHITECTURES:
        received = f"it was trained on a {quoted(trained)}, and a MistralModel is served"
        raise WeightsError(path, received, "use an adapter of this model")
    _check_initialisation(path, config.get("init_lora_weights", True))
    return dict(config)


def _check_initialisation(path: Path, given: object) -> None:
    """Refuse an adapter whose training began with a change of the base, unless it was converted."""
    method = given.lower() if isinstance(given, str) else ""
    if given is None or isinstance(given, bool) or method in KEEPS_BASE:
        return
    received = f"init_lora_weights is {quoted(given)}"
    if not CHANGES_BASE.match(method):
        received = f"{received}, and what that does to the base is not known here"
        raise WeightsError(path, received, MERGE_WITH_PEFT)
    received = f"{received}, which changed the base before the training, so that it fits no other"
    merge = "merge it where it was trained (merge_and_unload) and serve the result by E5_WEIGHTS"
    convert = "save it with path_initial_model_for_weight_conversion, which makes it plain LoRA"
    raise WeightsError(path, received, merge if method == "loftq" else f"{convert}, or {merge}")
