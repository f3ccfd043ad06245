"""Random weights in the 7B model's shapes, made on the device: nothing is read or downloaded."""

import json
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file

from e5.checkpoint import CONFIG, WEIGHT_INDEX, CheckpointManifest, checkpoint_files, hash_files
from e5.layers import StreamedLayers
from e5.mistral import Config, Mistral

SEVEN_BILLION = Config(rms_norm_eps=1e-5, max_position_embeddings=32768)
# For a rehearsal on a CPU, and tests.
SMALL = SEVEN_BILLION.model_copy(
    update={
        "hidden_size": 64,
        "intermediate_size": 224,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
)
# Times the square root of the width: 0.01 for the 7B model. Over 32 layers larger weights
# magnify rounding as no trained ones do: with 0.02 vectors in bfloat16 have a cosine of 0.9975 with
# those in float32, with 0.01 of 0.9998.
STANDARD_DEVIATION = 0.64
LAYERS_A_FILE = 4


def random_tensors(
    config: Config, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Make each tensor of a model on the device; they are the same each time. Norms are 1."""
    random = torch.Generator(device).manual_seed(0)
    deviation = STANDARD_DEVIATION / config.hidden_size**0.5
    for name, weight in Mistral(config).named_parameters():
        if weight.ndim == 1:
            yield name, torch.ones(weight.shape, device=device)
        else:
            tensor = torch.empty(weight.shape, dtype=dtype, device=device)
            yield name, tensor.normal_(0, deviation, generator=random)


def random_mistral(
    config: Config, device: torch.device, dtype: torch.dtype, *, streamed: Collection[int] = ()
) -> Mistral:
    """Make a model whose weights are on the device, but for the layers `streamed`."""
    model = Mistral(config)
    on_host = tuple(f"layers.{number}." for number in streamed)
    tensors = {
        name: tensor.cpu() if name.startswith(on_host) else tensor
        for name, tensor in random_tensors(config, device, dtype)
    }
    model.load_state_dict(tensors, assign=True)
    model.inv_freq = model.inv_freq.to(device)
    model.eval().requires_grad_(requires_grad=False)
    if streamed:
        model.layers = StreamedLayers(model, streamed)
    return model


def save_random_checkpoint(folder: Path, config: Config, device: torch.device) -> None:
    """Write a checkpoint in float16, the dtype on the hub, with the real Mistral vocabulary.

    That of the 7B model's shapes has 14.2 GB. The manifest is written last, so that a folder with
    one is whole.

    Raises:
        ImportError: mistral-common or sentencepiece, which hold the vocabulary, is not installed.
    """
    import mistral_common  # noqa: F401
    import sentencepiece  # noqa: F401

    from benchmarks.models import save_tokenizer  # transformers takes seconds to import

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    values = {"architectures": ["MistralModel"], "model_type": "mistral", "dtype": "float16"}
    values |= {name: value for name, value in config.model_dump().items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(values, indent=1) + "\n")
    weight_map: dict[str, str] = {}
    tensors = random_tensors(config, device, torch.float16)
    for file, part in groupby(tensors, lambda named: _file_of(named[0], config)):
        in_file = {name: tensor.half().cpu() for name, tensor in part}
        save_file(in_file, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(in_file, file)
    (folder / WEIGHT_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    source = "random weights of scripts/benchmarks/random_weights.py"
    CheckpointManifest(source, hash_files(folder, checkpoint_files(folder))).write(folder)


def _file_of(tensor: str, config: Config) -> str:
    """The file of a tensor: those of a few layers are together, so that the host holds no more."""
    layer = config.num_hidden_layers - 1
    if tensor.startswith("layers."):
        layer = int(tensor.split(".")[1])
    number = 0 if tensor.startswith("embed") else 1 + layer // LAYERS_A_FILE
    return f"model-{number:02}.safetensors"
