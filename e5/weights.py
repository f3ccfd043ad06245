"""Tensors of a verified checkpoint -> transformers' `MistralModel` on its device.

Nothing is unpickled and no code of a checkpoint is run. Knows nothing of texts, tokenizers or
batches.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import MistralConfig, MistralModel

from e5.adapter import Adapter
from e5.checkpoint import CONFIG, HOW_TO_GET_WEIGHTS, Checkpoint
from e5.errors import WeightsError

# Before a whole model's names, by who saved it: transformers, sentence-transformers, peft.
PREFIXES = ("", "model.", "0.auto_model.", "base_model.model.", "base_model.model.model.")
COMPUTED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
MOST_LAYERS = 1000
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapter: Adapter | None = None,
) -> MistralModel:
    """Load the checkpoint's weights, and what an adapter adds, into transformers' `MistralModel`.

    Tensors are read, converted and placed one at a time, so memory peaks at the loaded model plus
    one tensor. Norm weights stay in float32, because norms are computed in float32.

    Raises:
        WeightsError: naming the file that is not safetensors or not a Mistral configuration, or the
            tensor that is missing, unknown, of another shape or not floating-point; or what of
            the adapter does not fit.
    """
    from accelerate.utils import set_module_tensor_to_device  # only loading needs accelerate

    model = _empty_model(checkpoint.folder)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if adapter is not None:
        manifest = checkpoint.manifest
        adapter.check(shapes, source="" if manifest is None else manifest.source)
    paths = [checkpoint.folder / shard for shard in checkpoint.weight_files]
    names = {path: _names(path) for path in paths}
    prefix = _prefix([name for some in names.values() for name in some], shapes)
    for path in paths:
        for stored in tqdm(names[path], f"loading {path.name}", delay=2, disable=None):
            name = stored.removeprefix(prefix)
            if name not in shapes:
                if COMPUTED.search(name) or (prefix and name == stored):
                    continue  # the model computes it itself; or it belongs to another part
                raise WeightsError(
                    f"{path}: tensor {stored} is none of a MistralModel's; of a "
                    "MistralForCausalLM save the `.model`."
                )
            # Opened again for each tensor: closing the file frees the pages that were read.
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(stored)
            if tensor.shape != shapes[name]:
                raise WeightsError(
                    f"{path}: tensor {stored} has shape {list(tensor.shape)}, config.json asks "
                    f"for {list(shapes[name])}."
                )
            if tensor.dtype not in FLOATS:
                raise WeightsError(
                    f"{path}: tensor {stored} is {tensor.dtype}; only floating-point weights are "
                    "served, not quantised ones."
                )
            if adapter is not None:
                tensor = adapter.merge(name, tensor)
            kept = torch.float32 if tensor.ndim == 1 else dtype
            tensor = tensor.to(device, kept, copy=True)
            set_module_tensor_to_device(model, name, device, tensor, dtype=kept)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise WeightsError(
                f"{checkpoint.folder}: tensor {name} is in none of the weight files."
            )
    model.rotary_emb.to(device)  # its table is computed, not loaded
    model.eval().requires_grad_(False)
    return model


def _names(path: Path) -> list[str]:
    """Names of a file's tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: damaged, or not a safetensors file ({error}); delete the file, "
            f"then {HOW_TO_GET_WEIGHTS}."
        ) from error


def _prefix(stored: Sequence[str], wanted: Collection[str]) -> str:
    """What stands before the names of a whole model's tensors; "" where that is not certain."""
    names = set(stored)
    fitting = [prefix for prefix in PREFIXES if all(prefix + name in names for name in wanted)]
    return fitting[0] if len(fitting) == 1 else ""


def _empty_model(folder: Path) -> MistralModel:
    path = folder / CONFIG
    try:
        claims = json.loads(path.read_text(encoding="utf-8-sig"))
        model_type = claims["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a model configuration ({error}).") from error
    if model_type != "mistral":
        raise WeightsError(f"{path}: model_type is {model_type!r}; only 'mistral' is served.")
    _check_claims(path, claims)
    try:
        from accelerate import init_empty_weights

        config = MistralConfig.from_dict(claims)
        with init_empty_weights():
            return MistralModel(config)
    except Exception as error:  # transformers' errors for a wrong value share no base class
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: no model can be built from it ({reason}).") from error


def _check_claims(path: Path, claims: Mapping[str, Any]) -> None:
    """Refuse what this project does not do, instead of loading as if it were not said."""
    if claims.get("quantization_config"):
        raise WeightsError(
            f"{path}: has a quantization_config; quantised weights are not served, save them in "
            "float16, bfloat16 or float32."
        )
    for name in ("rope_scaling", "rope_parameters"):
        scaling = claims.get(name) or {}
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else "?"
        if kind not in (None, "default"):
            raise WeightsError(f"{path}: {name} is {kind!r}; scaled positions are not served.")
    architectures = claims.get("architectures") or []
    if others := [str(name) for name in architectures if not str(name).startswith("Mistral")]:
        raise WeightsError(f"{path}: architectures has {others[0][:60]!r}; only Mistral is served.")
    layers = claims.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise WeightsError(
            f"{path}: num_hidden_layers is {layers}; no model of this kind has over {MOST_LAYERS}."
        )
