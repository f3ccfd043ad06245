"""Tensors of a verified checkpoint -> transformers' `MistralModel` on its device.

Nothing is unpickled and no code of a checkpoint is run. Knows nothing of texts, tokenizers or
batches.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import MistralConfig, MistralModel

from e5.checkpoint import CONFIG, HOW_TO_GET_WEIGHTS, Checkpoint
from e5.errors import WeightsError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_model(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> MistralModel:
    """Load the checkpoint's weights into transformers' `MistralModel`.

    Tensors are read, converted and placed one at a time, so memory peaks at the loaded model plus
    one tensor. Norm weights stay in float32, because norms are computed in float32.

    Raises:
        WeightsError: naming the file that is not safetensors or not a Mistral configuration, or the
            tensor that is missing, unknown, of another shape or not floating-point.
    """
    from accelerate.utils import set_module_tensor_to_device  # only loading needs accelerate

    model = _empty_model(checkpoint.folder)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for shard in checkpoint.weight_files:
        path = checkpoint.folder / shard
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
            for name in tqdm(names, f"loading {shard}", delay=2, disable=None):
                # Opened again for each tensor: closing the file frees the pages that were read.
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(name)
                if name not in shapes:
                    raise WeightsError(
                        f"{path}: tensor {name} is none of a MistralModel's; of a "
                        "MistralForCausalLM save the `.model`."
                    )
                if tensor.shape != shapes[name]:
                    raise WeightsError(
                        f"{path}: tensor {name} has shape {list(tensor.shape)}, config.json asks "
                        f"for {list(shapes[name])}."
                    )
                if tensor.dtype not in FLOATS:
                    raise WeightsError(
                        f"{path}: tensor {name} is {tensor.dtype}; only floating-point weights are "
                        "served, not quantised ones."
                    )
                kept = torch.float32 if tensor.ndim == 1 else dtype
                tensor = tensor.to(device, kept, copy=True)
                set_module_tensor_to_device(model, name, device, tensor, dtype=kept)
        except SafetensorError as error:
            raise WeightsError(
                f"{path}: damaged, or not a safetensors file ({error}); delete the file, "
                f"then {HOW_TO_GET_WEIGHTS}."
            ) from error
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise WeightsError(
                f"{checkpoint.folder}: tensor {name} is in none of the weight files."
            )
    model.rotary_emb.to(device)  # its table is computed, not loaded
    model.eval().requires_grad_(False)
    return model


def _empty_model(folder: Path) -> MistralModel:
    path = folder / CONFIG
    try:
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a model configuration ({error}).") from error
    if model_type != "mistral":
        raise WeightsError(f"{path}: model_type is {model_type!r}; only 'mistral' is served.")
    try:
        from accelerate import init_empty_weights

        config = MistralConfig.from_pretrained(folder)
        with init_empty_weights():
            return MistralModel(config)
    except Exception as error:  # transformers' errors for a wrong value share no base class
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: no model can be built from it ({reason}).") from error
