"""Every adapter that is accepted is merged as peft merges it, for members of the kind at random."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from damages import tensors_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from e5.errors import WeightsError
from e5.lora import LoraAdapter

pytestmark = pytest.mark.slow  # imports peft

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
INITIALISATIONS = (True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica")
TARGETS = (ALL, ["v_proj"], ["self_attn.o_proj", "down_proj"], "all-linear", r".*\.(up|k)_proj")


@pytest.fixture(scope="module")
def base() -> Any:
    """A `MistralForCausalLM` in memory. Not to be altered."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(3)
    return MistralForCausalLM(
        MistralConfig(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=6,
        )
    )


@given(
    options=st.fixed_dictionaries(
        {
            "init_lora_weights": st.sampled_from(INITIALISATIONS),
            "target_modules": st.sampled_from(TARGETS),
            "r": st.sampled_from([2, 4]),
            "lora_alpha": st.sampled_from([1, 7.5, 16]),
            "use_rslora": st.booleans(),
            "fan_in_fan_out": st.booleans(),
            "exclude_modules": st.sampled_from([None, ["layers.0.mlp.down_proj"]]),
        }
    ),
    layers=st.sampled_from([None, 1, [0, 1]]),
    causal=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    infix=st.sampled_from(["", ".default", ".law"]),
    prefix=st.sampled_from(["", "_orig_mod.", "module.", "base_model.model._orig_mod."]),
)
def test_every_accepted_one_is_merged_as_peft_merges_it(
    base: Any,
    tmp_path_factory: pytest.TempPathFactory,
    options: dict[str, Any],
    layers: int | list[int] | None,
    causal: bool,
    dtype: torch.dtype,
    infix: str,
    prefix: str,
) -> None:
    folder = tmp_path_factory.mktemp("lora")
    if not isinstance(options["target_modules"], str) and causal:
        options = options | {"layers_to_transform": layers}
    adapted = adapt(base if causal else base.model, options)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter).to(dtype).float()
    adapted.save_pretrained(folder)
    tensors = {
        name.replace("base_model.model.", prefix or "base_model.model.", 1).replace(
            ".weight", f"{infix}.weight"
        ): tensor.to(dtype)
        for name, tensor in tensors_of(folder / ADAPTER_WEIGHTS).items()
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    truth = adapted.merge_and_unload()
    assert_merges(folder, base.model, truth.model if causal else truth)


@pytest.mark.filterwarnings("ignore")  # peft warns of two adapters at a time
@pytest.mark.parametrize("initialisation", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_pefts_own_conversion_makes_plain_lora_of_it(
    base: Any, tmp_path: Path, initialisation: str, rslora: bool
) -> None:
    options = {"init_lora_weights": initialisation, "use_rslora": rslora}
    adapted = adapt(base.model, {"r": 2, "lora_alpha": 6, "target_modules": ALL} | options)
    adapted.save_pretrained(tmp_path / "start")
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "raw")
    adapted.save_pretrained(
        tmp_path / "law", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    assert_merges(tmp_path / "law", base.model, adapted.merge_and_unload())
    with pytest.raises(WeightsError, match=f'init_lora_weights is "{initialisation}", which ch'):
        LoraAdapter.read(tmp_path / "raw")


def adapt(model: Any, options: dict[str, Any]) -> Any:
    """A copy of the model with peft's adapter in it."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(deepcopy(model), LoraConfig(**options))


def assert_merges(folder: Path, base: Any, truth: Any) -> None:
    """The adapter makes of each weight of the base what peft made of it."""
    weights = base.state_dict()
    adapter = LoraAdapter.read(folder)
    adapter.check({name: weight.shape for name, weight in weights.items()}, source="")
    assert adapter.pairs
    for name, merged in truth.state_dict().items():
        torch.testing.assert_close(adapter.merge(name, weights[name]), merged)
