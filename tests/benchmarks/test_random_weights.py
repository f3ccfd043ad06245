"""Random weights are the same each time, in the device's memory or in a checkpoint's files."""

from pathlib import Path

import pytest
import torch
from checkpoints import true_ids

from benchmarks.random_weights import SEVEN_BILLION, SMALL, random_mistral, save_random_checkpoint
from e5.checkpoint import Checkpoint
from e5.forward import forward
from e5.mistral import Config, Mistral
from e5.packing import pack
from e5.weights import load_model

CPU = torch.device("cpu")
TEXTS = [true_ids("Snow is frozen water."), true_ids("rain")]


def test_the_shapes_are_those_of_the_7b_model() -> None:
    weights = sum(weight.numel() for weight in Mistral(SEVEN_BILLION).parameters())
    assert weights == 7_110_660_096
    assert (SEVEN_BILLION.sliding_window, SEVEN_BILLION.rope_theta) == (4096, 10_000)


def test_two_models_are_equal_and_calm() -> None:
    config = SMALL.model_copy(update={"num_hidden_layers": 32})
    one, other = (random_mistral(config, CPU, torch.float32) for _ in range(2))
    vectors = forward(one, pack(TEXTS))
    assert torch.equal(vectors, forward(other, pack(TEXTS)))
    assert torch.cosine_similarity(vectors[0], vectors[1], dim=0) < 0.9
    rounded = forward(random_mistral(config, CPU, torch.bfloat16), pack(TEXTS))
    assert torch.cosine_similarity(vectors, rounded).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 9])
def test_a_checkpoint_holds_the_same_weights(tmp_path: Path, layers: int) -> None:
    config: Config = SMALL.model_copy(update={"num_hidden_layers": layers})
    save_random_checkpoint(tmp_path, config, CPU)
    loaded = load_model(Checkpoint.find(tmp_path), device=CPU, dtype=torch.float16)
    assert loaded.config == config
    made = random_mistral(config, CPU, torch.float16).state_dict()
    assert made.keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, made[name])
