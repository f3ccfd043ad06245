"""Tensors of a verified checkpoint -> a `Mistral` on its device.

Nothing is unpickled, and no code of a checkpoint is run.
"""

import re
from collections.abc import Collection, Iterable, Set
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from e5.checkpoint import CONFIG, DELETE_FIRST, HOW_TO_GET_WEIGHTS, Checkpoint
from e5.errors import WeightsError
from e5.layers import StreamedLayers
from e5.lora import LoraAdapter
from e5.mistral import Config, Mistral

# What transformers, sentence-transformers and peft write before the names of a model's tensors.
TENSOR_PREFIXES = ("", "model.", "0.auto_model.", "base_model.model.", "base_model.model.model.")
COMPUTED_TENSOR = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapter: LoraAdapter | None = None,
    streamed: Collection[int] = (),
) -> Mistral:
    """Load the checkpoint's weights, and merge an adapter into them.

    Tensors are read, converted and moved to the device one at a time, so memory peaks at the loaded
    model plus one tensor. Norm weights stay in float32, because norms are computed in float32.
    The layers of the numbers `streamed` stay in host memory; see `StreamedLayers`.

    Raises:
        SettingsError: the memory of streamed layers cannot be pinned.
        WeightsError: for a file that is not safetensors or not a Mistral configuration, a tensor
            that is missing, unknown, of another shape or not floating-point, or an adapter that
            does not fit.
    """
    model = Mistral(Config.read(checkpoint.folder / CONFIG))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if adapter is not None:
        manifest = checkpoint.manifest
        adapter.check(shapes, source="" if manifest is None else manifest.source)
    on_host = tuple(f"layers.{number}." for number in streamed)
    paths = [checkpoint.folder / part for part in checkpoint.weight_files]
    names = {path: _tensor_names(path) for path in paths}
    prefix = _common_prefix({name for in_file in names.values() for name in in_file}, shapes)
    for path in paths:
        for stored_name in tqdm(names[path], f"loading {path.name}", delay=2, disable=None):
            name = stored_name.removeprefix(prefix)
            if name not in shapes:
                if COMPUTED_TENSOR.search(name) or (prefix and name == stored_name):
                    continue  # the model computes it, or it belongs to another part
                received = f"tensor {stored_name} is not part of a MistralModel"
                raise WeightsError(path, received, "save only the `.model` of a MistralForCausalLM")
            # Opened again for each tensor: closing the file frees the pages that were read.
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(stored_name)
            if tensor.shape != shapes[name]:
                has, asked = list(tensor.shape), list(shapes[name])
                received = f"tensor {stored_name} has shape {has}, and config.json asks for {asked}"
                raise WeightsError(path, received, "use the config.json of these weights")
            if tensor.dtype not in FLOATS:
                is_quantised = f"is {tensor.dtype}, and quantised ones are not served"
                remedy = "save it in float16, bfloat16 or float32"
                raise WeightsError(path, f"tensor {stored_name} {is_quantised}", remedy)
            if adapter is not None:
                tensor = adapter.merge(name, tensor)
            loaded_dtype = torch.float32 if tensor.ndim == 1 else dtype
            target = torch.device("cpu") if name.startswith(on_host) else device
            tensor = tensor.to(target, loaded_dtype, copy=True)
            module, _, attribute = name.rpartition(".")
            parameter = nn.Parameter(tensor, requires_grad=False)
            setattr(model.get_submodule(module), attribute, parameter)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            received = f"tensor {name} is in none of the weight files"
            raise WeightsError(checkpoint.folder, received, HOW_TO_GET_WEIGHTS)
    model.inv_freq = model.inv_freq.to(device)
    if streamed:
        model.layers = StreamedLayers(model, streamed)
    return model.eval()


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        received = f"damaged, or not a safetensors file ({error})"
        raise WeightsError(path, received, DELETE_FIRST) from error


def _common_prefix(stored: Set[str], expected: Iterable[str]) -> str:
    """The prefix with which all expected names are stored; "" unless exactly one fits."""
    fitting = [p for p in TENSOR_PREFIXES if all(p + name in stored for name in expected)]
    return fitting[0] if len(fitting) == 1 else ""
