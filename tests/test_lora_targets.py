"""The modules that a configuration names are those that peft adapts."""

import warnings
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5.lora_targets import targeted_modules

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = [
    *LINEAR,
    *("embed_tokens", "self_attn.q_proj", "mlp", "proj", "absent"),
    *("model.layers.1.mlp.up_proj", "layers.0.self_attn.k_proj", "1.mlp.down_proj"),
]
EXPRESSIONS = [
    "all-linear",
    "ALL-LINEAR",
    r".*\.(q|v)_proj",
    r"(model\.)?layers\.[01]\..*_proj",
    r"model\.layers\.\d+\.mlp\.(up|down)_proj",
    "q_proj",
    r"(?:.*?(?:language|text).*?(?:attn|mlp).*?q_proj)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.up_proj)",
]


@cache
def model(causal: bool) -> Any:
    from transformers import MistralConfig, MistralForCausalLM, MistralModel  # late: takes seconds

    config = MistralConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=8,
    )
    return MistralForCausalLM(config) if causal else MistralModel(config)


def pefts_choice(config: dict[str, Any], *, causal: bool) -> set[str] | None:
    """The modules of a Mistral that peft adapts; None if it refuses the configuration."""
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted: Any = get_peft_model(deepcopy(model(causal)), LoraConfig(r=1, **config))
        except ValueError:
            return None
    names = adapted.base_model.targeted_module_names
    return {name for name in names if name != "lm_head"}


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "target_modules": st.none()
            | st.lists(st.sampled_from(TARGETS), min_size=1, unique=True)
            | st.sampled_from(EXPRESSIONS),
            "exclude_modules": st.none()
            | st.lists(st.sampled_from(TARGETS), unique=True)
            | st.sampled_from(EXPRESSIONS[2:]),
            "layers_to_transform": st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3)),
            "layers_pattern": st.sampled_from([None, "layers", ["h", "layers"], "h", "lay.rs", []]),
        },
    ),
    st.booleans(),
)
@example({"target_modules": ["embed_tokens"], "layers_to_transform": 0}, False)
def test_they_are_those_that_peft_adapts(config: dict[str, Any], causal: bool) -> None:
    if isinstance(config.get("target_modules"), str):  # peft refuses them together
        config = {k: v for k, v in config.items() if not k.startswith("layers_")}
    truth = pefts_choice(config, causal=causal)
    if truth is None:
        return
    parameters = dict(model(causal).named_parameters())
    modules = [name.removesuffix(".weight") for name, p in parameters.items() if p.ndim == 2]
    ours = targeted_modules(config, [name for name in modules if name != "lm_head"])
    assert ours == truth


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "q_proj("},
        {"target_modules": 7},
        {"target_modules": ["q_proj"], "layers_to_transform": "all"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["("]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": 3},
        {"target_modules": ["q_proj"], "exclude_modules": 1.5},
    ],
)
def test_a_setting_that_is_none_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        targeted_modules(config, ["model.layers.1.self_attn.q_proj"])
