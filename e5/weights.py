"""Tensors of a verified checkpoint -> a `Mistral` on its device.

Nothing is unpickled and no code of a checkpoint is run. Knows nothing of texts, tokenizers or
batches.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from e5.checkpoint import CONFIG, HOW_TO_GET_WEIGHTS, Checkpoint
from e5.errors import WeightsError
from e5.lora import LoraAdapter
from e5.mistral import Config, Mistral

# Before a whole model's names, by who saved it: transformers, sentence-transformers, peft.
PREFIXES = ("", "model.", "0.auto_model.", "base_model.model.", "base_model.model.model.")
COMPUTED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapter: LoraAdapter | None = None,
) -> Mistral:
    """Load the checkpoint's weights, and what an adapter adds.

    Tensors are read, converted and placed one at a time, so memory peaks at the loaded model plus
    one tensor. Norm weights stay in float32, because norms are computed in float32.

    Raises:
        WeightsError: naming the file that is not safetensors or not a Mistral configuration, or the
            tensor that is missing, unknown, of another shape or not floating-point; or what of
            the adapter does not fit.
    """
    model = Mistral(Config.read(checkpoint.folder / CONFIG))
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
            placed = nn.Parameter(tensor.to(device, kept, copy=True), requires_grad=False)
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, placed)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise WeightsError(
                f"{checkpoint.folder}: tensor {name} is in none of the weight files."
            )
    model.inv_freq = model.inv_freq.to(device)
    return model.eval()


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
