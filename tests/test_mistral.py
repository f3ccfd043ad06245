"""The modules are those of transformers' `MistralModel`, and so is what config.json means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralModel

from e5.errors import WeightsError
from e5.mistral import Config, Mistral

SHAPES = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(1, 99),
        "hidden_size": st.sampled_from([16, 48]),
        "intermediate_size": st.integers(1, 99),
        "num_hidden_layers": st.integers(1, 3),
        "num_attention_heads": st.sampled_from([4, 8]),
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "head_dim": st.none() | st.sampled_from([2, 12]),
        "rms_norm_eps": st.sampled_from([1e-5, 1e-6, 0.1]),
        "rope_parameters": st.sampled_from([10000.0, 1e6, 7.5]).map(
            lambda theta: {"rope_theta": theta, "rope_type": "default"}
        ),
        "max_position_embeddings": st.integers(3, 9999),
        "sliding_window": st.none() | st.integers(3, 9999),
    }
)


def read(folder: Path, claims: dict[str, Any]) -> Config:
    path = folder / "config.json"
    path.write_text(json.dumps(claims))
    return Config.read(path)


@given(SHAPES)
def test_a_configuration_makes_the_model_that_transformers_makes(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, Any]
) -> None:
    reference = MistralConfig(**shapes)
    config = read(tmp_path_factory.mktemp("config"), json.loads(reference.to_json_string()))
    ours = Mistral(config)
    with torch.device("meta"):
        truth = MistralModel(reference)
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == {
        name: weight.shape for name, weight in truth.state_dict().items()
    }
    assert torch.equal(ours.inv_freq, MistralModel(reference).rotary_emb.inv_freq)
    assert ours.norm.eps == truth.norm.variance_epsilon
    for name in ("max_position_embeddings", "sliding_window"):
        assert getattr(config, name) == shapes[name]


def test_what_is_not_said_is_what_transformers_takes(tmp_path: Path) -> None:
    reference, ours = MistralConfig(), read(tmp_path, {"model_type": "mistral"})
    claims = {"quantization_config": None} | reference.to_dict()
    claims |= claims["rope_parameters"]
    shown = ours.model_dump() | {"head_dim": ours.head_size}
    assert shown == {name: claims[name] for name in Config.model_fields}


@pytest.mark.parametrize(
    "claims",
    [
        {"rope_theta": 500},
        {"rope_theta": 7, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"rope_theta": 500.0, "rope_scaling": None, "rope_parameters": {}},
    ],
)
def test_theta_is_read_where_each_version_of_transformers_writes_it(
    tmp_path: Path, claims: dict[str, Any]
) -> None:
    claims = {"model_type": "mistral"} | claims
    assert read(tmp_path, claims).rope_theta == 500
    reference = MistralConfig.from_dict(claims).to_dict()
    assert reference["rope_parameters"]["rope_theta"] == 500


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"model_type": "llama"},
            'model_type is "llama"; use the config.json of a Mistral checkpoint.',
        ),
        ({"model_type": None}, "model_type is null; "),
        ({"hidden_size": "big"}, 'hidden_size is "big", and it '),
        ({"hidden_size": "64"}, 'hidden_size is "64", and it '),
        ({"hidden_size": 0}, "hidden_size is 0, and it should be greater than 0; "),
        ({"max_position_embeddings": 2}, "max_position_embeddings is 2, and it should be "),
        ({"sliding_window": 1}, "sliding_window is 1, and it should be greater than or equal to 3"),
        ({"vocab_size": 1.5}, "vocab_size is 1.5, and it "),
        ({"num_key_value_heads": None}, "num_key_value_heads is null, and it "),
        ({"num_key_value_heads": 3}, "which is not a multiple of num_key_value_heads, 3; "),
        ({"head_dim": 7}, "a head has 7 dimensions"),
        ({"hidden_size": 31}, "a head has 0 dimensions"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05, and it "),
        ({"rope_theta": float("inf")}, "rope_theta is Infinity, and it "),
        ({"rope_parameters": {"rope_theta": "x"}}, 'rope_theta is "x", and it '),
        ({"hidden_act": "gelu"}, "hidden_act is \"gelu\", and it should be 'silu'; "),
        (
            {"quantization_config": {"bits": 4}},
            "it has a quantization_config (quant_method null); save the weights in float16, ",
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            'E5_ENGINE=transformers serves those of "bitsandbytes" as they are',
        ),
        ({"quantization_config": "nf4"}, "(quant_method null)"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            'rope_scaling is "linear", and scaled positions',
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'rope_parameters is "yarn"'),
        ({"rope_parameters": [1]}, 'rope_parameters is "?"'),
        (
            {"architectures": ["MixtralModel"]},
            'architectures has "MixtralModel", and only MistralModel and MistralForCausalLM are',
        ),
        ({"architectures": ["MistralBiModel"]}, 'architectures has "MistralBiModel"'),
        ({"architectures": ["MistralForSequenceClassification"]}, "architectures has "),
        ({"architectures": ["MistralModel", "MistralEncoderModel"]}, '"MistralEncoderModel"'),
        ({"architectures": "MistralBiModel"}, 'architectures has "MistralBiModel"'),
        ({"architectures": [None]}, "architectures has null"),
        ({"auto_map": {"AutoModel": "modeling.Own"}}, 'auto_map is {"AutoModel": "modeling.Own"}'),
        ({"is_causal": False}, "is_causal is false, and only causal attention is served"),
        ({"is_causal": None}, "is_causal is null"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ({"use_bidirectional_attention": "all"}, 'use_bidirectional_attention is "all"'),
        ({"bidirectional": 1}, "bidirectional is 1"),
        ({"is_bi_directional": True}, "is_bi_directional is true"),
        ({"use_causal_mask": False}, "use_causal_mask is false"),
        ({"non_causal": True}, "non_causal is true"),
        ({"attention_type": "Bidirectional"}, 'attention_type is "Bidirectional"'),
        ({"attn_mask_type": "noncausal"}, 'attn_mask_type is "noncausal"'),
        (
            {"pooling_type": "mean"},
            'pooling_type is "mean", and only the vector of the last token is served;',
        ),
        ({"sentence_pooling_method": "cls"}, 'sentence_pooling_method is "cls"'),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is true, and a Mistral has"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers is 1000000, and it "),
        ({"hidden_size": "x" * 1000}, 'hidden_size is "xxx'),
    ],
)
def test_an_unsupported_configuration_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(WeightsError, match=f"{tmp_path / 'config.json'}: ") as refusal:
        read(tmp_path, {"model_type": "mistral"} | changes)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_quantised_weights_are_read_by_who_can_compute_with_them(tmp_path: Path) -> None:
    claims = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "mistral", "quantization_config": claims}))
    assert Config.read(path, quantised_by="bitsandbytes").quantization_config == claims
    for other in (None, "gptq"):
        with pytest.raises(WeightsError, match="it has a quantization_config"):
            Config.read(path, quantised_by=other)


@pytest.mark.parametrize(
    "harmless",
    [
        {"is_causal": True, "is_decoder": False, "use_cache": True},
        {"use_bidirectional_attention": False, "non_causal": False, "causal_lm": False},
        {"auto_map": {}, "architectures": None, "attention_bias": False, "mlp_bias": False},
        {"architectures": ["MistralForCausalLM"], "attention_dropout": 0.1},
        {"_name_or_path": "models/bidirectional-mean-pooling", "pooling_type": "last_token"},
        {"pooling": "lasttoken", "attention_type": "causal", "tie_word_embeddings": True},
    ],
)
def test_what_changes_nothing_is_no_reason_to_refuse(
    tmp_path: Path, harmless: dict[str, Any]
) -> None:
    assert read(tmp_path, {"model_type": "mistral"} | harmless) == Config()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "7"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(WeightsError, match=f"{path}: not a model configuration"):
        Config.read(path)


def test_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "mistral", "hidden_size": 64}', encoding="utf-8-sig")
    assert Config.read(path).hidden_size == 64
