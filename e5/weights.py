"""Tensors of a verified checkpoint -> a `Mistral` on its device.

Nothing is unpickled, and no code of a checkpoint is run.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from e5.checkpoint import (
    ADAPTER_CONFIG,
    CONFIG,
    DELETE_FIRST,
    HOW_TO_GET_WEIGHTS,
    Checkpoint,
)
from e5.errors import WeightsError, quoted
from e5.layers import StreamedLayers
from e5.lora import MERGE_WITH_PEFT, LoraAdapter
from e5.mistral import Config, Mistral
from e5.tensor_names import common_prefixes, without_wrappers

COMPUTED_TENSOR = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
# The language-model head, which stands beside a MistralModel and which no vector needs.
LM_HEAD = re.compile(r"(^|\.)lm_head\.weight$")
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
    The layers whose numbers are in `streamed` stay in host memory; see `StreamedLayers`.

    Raises:
        SettingsError: the memory of streamed layers cannot be pinned.
        WeightsError: for a file that is not safetensors or not a Mistral configuration, a tensor
            that is missing, unknown, of another shape or not floating-point, or an adapter that
            does not fit.
    """
    model = Mistral(Config.read(checkpoint.folder / CONFIG))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    on_host = tuple(f"layers.{number}." for number in streamed)
    for name, tensor in read_tensors(checkpoint, shapes, adapter=adapter):
        loaded_dtype = torch.float32 if tensor.ndim == 1 else dtype
        target = torch.device("cpu") if name.startswith(on_host) else device
        tensor = tensor.to(target, loaded_dtype, copy=True)
        module, _, attribute = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(module), attribute, parameter)
    model.inv_freq = model.inv_freq.to(device)
    if streamed:
        model.layers = StreamedLayers(model, streamed)
    return model.eval()


def read_tensors(
    checkpoint: Checkpoint, shapes: Mapping[str, torch.Size], *, adapter: LoraAdapter | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Read each tensor of a model, checked, with its name and an adapter merged into it.

    A tensor without a part of the adapter is mapped from its file, not copied.

    Args:
        checkpoint: where the tensors are.
        shapes: those of the model's tensors, by name.
        adapter: merged into the tensors that it adapts, which are then float32.

    Raises:
        WeightsError: as `load_model` does.
    """
    refuse_adapter_inside(checkpoint.folder, adapter)
    missing = set(shapes)
    if adapter is not None:
        manifest = checkpoint.manifest
        adapter.check(shapes, source="" if manifest is None else manifest.source)
    names = _stored_names([checkpoint.folder / part for part in checkpoint.weight_files], shapes)
    for path, stored_names in names.items():
        progress = tqdm(stored_names.items(), f"loading {path.name}", delay=2, disable=None)
        for stored_name, name in progress:
            # Opened again for each tensor: closing the file frees the pages that were read.
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(stored_name)
            if tensor.shape != shapes[name]:
                found, needed = list(tensor.shape), list(shapes[name])
                received = f"tensor {stored_name} has shape {found}, and config.json needs {needed}"
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


def _stored_names(paths: Sequence[Path], expected: Collection[str]) -> dict[Path, dict[str, str]]:
    """Of each file, the tensors that are loaded: stored name -> name in the model.

    Raises:
        WeightsError: for two tensors of one name, or one that the model does not have.
    """
    stored: dict[str, tuple[str, Path]] = {}  # by the name without wrappers
    for path in paths:
        for name in _tensor_names(path):
            plain = without_wrappers(name)
            if ".lora_" in plain or ".base_layer." in plain:
                received = f"tensor {name} is of an adapter that was not merged"
                raise WeightsError(path, received, MERGE_WITH_PEFT)
            if plain in stored:
                other, there = stored[plain]
                received = f"tensor {name} is also there as {other} in {there.name}"
                raise WeightsError(path, received, "save the weights again, each tensor once")
            stored[plain] = name, path
    prefixes = common_prefixes(stored.keys(), expected)
    if len(prefixes) > 1:
        found = " and ".join(quoted(prefix) for prefix in prefixes[:2])
        received = f"it holds more than one model, with the prefixes {found}"
        raise WeightsError(paths[0].parent, received, "save the model that is to be served alone")
    prefix = prefixes[0] if prefixes else ""
    names: dict[Path, dict[str, str]] = {path: {} for path in paths}
    for plain, (name, path) in stored.items():
        if plain.startswith(prefix) and plain.removeprefix(prefix) in expected:
            names[path][name] = plain.removeprefix(prefix)
        elif not COMPUTED_TENSOR.search(plain) and not (prefix and LM_HEAD.search(plain)):
            received = f"tensor {name} is not part of a MistralModel"
            raise WeightsError(path, received, "save only the `.model` of a MistralForCausalLM")
    return names


def refuse_adapter_inside(folder: Path, adapter: LoraAdapter | None) -> None:
    """Refuse weights with an adapter beside them, which transformers would apply."""
    config = folder / ADAPTER_CONFIG
    if config.is_file() and (adapter is None or not adapter.folder.samefile(folder)):
        received = "the folder of the weights holds an adapter too"
        remedy = "set E5_ADAPTER to the same folder to merge it, or move its files away"
        raise WeightsError(config, received, remedy)
