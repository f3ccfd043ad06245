"""Tensors of a verified checkpoint -> a `Mistral` on its device.

Nothing is unpickled, and no code of a checkpoint is run.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from e5.checkpoint import CONFIG, DELETE_FIRST, HOW_TO_GET_WEIGHTS, Checkpoint
from e5.errors import WeightsError
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
) -> Mistral:
    """Load the checkpoint's weights, and merge an adapter into them.

    Tensors are read, converted and moved to the device one at a time, so memory peaks at the loaded
    model plus one tensor. Norm weights stay in float32, because norms are computed in float32.

    Raises:
        WeightsError: for a file that is not safetensors or not a Mistral configuration, a tensor
            that is missing, unknown, of another shape or not floating-point, or an adapter that
            does not fit.
    """
    model = Mistral(Config.read(checkpoint.folder / CONFIG))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, tensor in read_tensors(checkpoint, shapes, adapter=adapter):
        loaded_dtype = torch.float32 if tensor.ndim == 1 else dtype
        tensor = tensor.to(device, loaded_dtype, copy=True)
        module, _, attribute = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(module), attribute, parameter)
    model.inv_freq = model.inv_freq.to(device)
    return model.eval()


def read_tensors(
    checkpoint: Checkpoint, shapes: Mapping[str, torch.Size], *, adapter: LoraAdapter | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Read each tensor of a model, checked, with its name and an adapter merged into it.

    A tensor without a part of the adapter is mapped from its file, not copied.

    Args:
        checkpoint: where the tensors are.
        shapes: those of the model's tensors, by name.
        adapter: adapted tensors are float32.

    Raises:
        WeightsError: as `load_model` does.
    """
    missing = set(shapes)
    if adapter is not None:
        manifest = checkpoint.manifest
        adapter.check(shapes, source="" if manifest is None else manifest.source)
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
            missing.discard(name)
            yield name, tensor if adapter is None else adapter.merge(name, tensor)
    for name in shapes:
        if name in missing:
            received = f"tensor {name} is in none of the weight files"
            raise WeightsError(checkpoint.folder, received, HOW_TO_GET_WEIGHTS)


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
