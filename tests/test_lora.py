"""A LoRA adapter gives the vectors of peft's own merge, or is refused by name."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, load, save_checkpoint
from damages import edit_json, tensors_of
from reference import assert_same
from safetensors.torch import save_file

from e5.checkpoint import CheckpointManifest, hash_files
from e5.errors import WeightsError
from e5.lora import LoraAdapter

pytestmark = pytest.mark.slow  # imports peft, and saves many adapters

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_adapter(base: Path, folder: Path, *, causal: bool = False, **options: Any) -> Path:
    """A random adapter of a checkpoint, saved by peft; its own merge goes to `folder`/merged."""
    from peft import LoraConfig, get_peft_model  # late: the imports take seconds
    from transformers import MistralConfig, MistralForCausalLM, MistralModel

    torch.manual_seed(7)
    model: Any = MistralModel.from_pretrained(base)
    if causal:
        whole: Any = MistralForCausalLM(MistralConfig.from_pretrained(base))
        whole.model = model
        model = whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for what will be renamed
        given: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": ALL} | options
        adapted: Any = get_peft_model(model, LoraConfig(**given))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(folder)
        merged = adapted.merge_and_unload()
    shutil.copytree(base, folder / "merged")
    (merged.model if causal else merged).save_pretrained(folder / "merged")
    return folder


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `checkpoint`. Not to be altered."""
    return save_adapter(checkpoint, tmp_path_factory.mktemp("adapter") / "law")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return shutil.copytree(adapter, tmp_path / "copy")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
        {"causal": True, "layers_to_transform": [1], "r": 1, "lora_alpha": 0.5},
    ],
    ids=str,
)
def test_its_vectors_are_those_of_pefts_merge(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = save_adapter(checkpoint, tmp_path / "law", **options)
    merged, ours = load(folder / "merged"), load(checkpoint, adapter=str(folder))
    assert_same(ours.encode_query(TEXTS), merged.encode_query(TEXTS))
    assert_same(ours.encode_document(TEXTS), merged.encode_document(TEXTS))
    assert not np.allclose(ours.encode_query("a"), load(checkpoint).encode_query("a"), atol=1e-2)


def test_the_unmodified_model_has_it_too(checkpoint: Path, adapter: Path) -> None:
    ours, theirs = (
        load(checkpoint, adapter=str(adapter), engine=engine)
        for engine in ("packed", "transformers")
    )
    assert_same(theirs.encode_query(TEXTS), ours.encode_query(TEXTS))
    assert theirs.name != ours.name


def test_the_fingerprint_tells_adapters_apart(checkpoint: Path, adapter: Path, copy: Path) -> None:
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, copy / ADAPTER_WEIGHTS)
    folders = [None, adapter, copy]
    names = [load(checkpoint, **({"adapter": str(f)} if f else {})).name for f in folders]
    assert len(set(names)) == 3
    assert names[1] == load(checkpoint, adapter=str(adapter)).name


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("pissa", "changed the base before the training, so that it fits no other; save it with"),
        ("pissa_niter_16", "changed the base"),
        ("olora", "changed the base"),
        ("OLoRA", "changed the base"),
        ("corda", "path_initial_model_for_weight_conversion, which makes it plain LoRA, or merge"),
        ("lora_ga", "changed the base"),
        ("loftq", "changed the base before the training, so that it fits no other; merge it where"),
        ("what_comes_next_year", "and what that does to the base is not known here; merge the ad"),
        ("true", "is not known here"),
        (1, "is not known here"),
        ([], "is not known here"),
    ],
)
def test_an_initialisation_that_may_have_changed_the_base_is_refused(
    copy: Path, word: object, reason: str
) -> None:
    edit_json(copy / ADAPTER_CONFIG, init_lora_weights=word)
    with pytest.raises(WeightsError) as refusal:
        LoraAdapter.read(copy)
    assert f"init_lora_weights is {json.dumps(word)}, " in str(refusal.value)
    assert reason in str(refusal.value)


def edit_adapter(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors, by the end of their names; None removes them."""
    tensors = tensors_of(folder / ADAPTER_WEIGHTS)
    for name in list(tensors):
        for ending, tensor in changes.items():
            if name.endswith(ending.replace("__", ".")):
                del tensors[name]
                if tensor is not None:
                    tensors[name] = tensor
    save_file(tensors, folder / ADAPTER_WEIGHTS)


def test_a_file_without_tensors_is_refused(copy: Path) -> None:
    save_file({}, copy / ADAPTER_WEIGHTS)
    with pytest.raises(WeightsError, match=f"{copy / ADAPTER_WEIGHTS}: it holds no tensors; save"):
        LoraAdapter.read(copy)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("layers.1.", r"names layers\.1\.mlp\.down_proj and 6 more, and the file has no A and B"),
        ("layers.0.self_attn.q_proj", r"names layers\.0\.self_attn\.q_proj, and the file has no"),
        ("up_proj", r"names layers\.0\.mlp\.up_proj and 2 more"),
    ],
)
@pytest.mark.parametrize("targets", [ALL, "all-linear", r".*_proj"])
def test_a_layer_or_module_that_the_config_names_and_the_file_lacks_is_refused(
    checkpoint: Path, copy: Path, lost: str, named: str, targets: object
) -> None:
    edit_json(copy / ADAPTER_CONFIG, target_modules=targets)
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if lost not in name}
    save_file(kept, copy / ADAPTER_WEIGHTS)
    with pytest.raises(WeightsError, match=f"{ADAPTER_WEIGHTS}: {ADAPTER_CONFIG} {named}"):
        load(checkpoint, adapter=str(copy))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target_modules": ["q_proj"]}, "which adapter_config.json does not name"),
        ({"target_modules": None}, "which adapter_config.json does not name"),
        ({"exclude_modules": ["up_proj"]}, r"it has A and B of layers\.0\.mlp\.up_proj and 2 more"),
        ({"target_modules": [*ALL, "embed_tokens"]}, "names embed_tokens, and the file has no A"),
        ({"target_modules": "("}, "target_modules and its kin cannot be read"),
        ({"target_modules": 7}, "target_modules and its kin cannot be read"),
    ],
)
def test_what_the_config_does_not_name_is_refused(
    checkpoint: Path, copy: Path, changes: dict[str, Any], named: str
) -> None:
    edit_json(copy / ADAPTER_CONFIG, **changes)
    with pytest.raises(WeightsError, match=named):
        load(checkpoint, adapter=str(copy))


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(0), r"has shape \[0\]: a part of it was saved, as by DeepSpeed; gather"),
        (torch.zeros(0, 64), r"has shape \[0, 64\]: a part of it was saved"),
        (torch.zeros(256), r"has shape \[256\]: a part of it was saved"),
        (torch.full((4, 64), torch.nan), "holds NaN or infinity; take an earlier state"),
        (torch.full((4, 64), -torch.inf, dtype=torch.float16), "holds NaN or infinity"),
        (torch.zeros(4, 64, dtype=torch.int8), r"is torch\.int8 with 2 axes, and A and B are"),
        (torch.zeros(4, 64).to(torch.float8_e4m3fn), r"is torch\.float8_e4m3fn with 2 axes"),
        (torch.zeros(4, 64, 1), r"is torch\.float32 with 3 axes"),
        (torch.zeros(4, 63), r"needs \[64, 63\], and the weights have \[64, 64\]"),
        (torch.zeros(3, 64), "do not both have rank r = 4"),
    ],
)
def test_a_tensor_that_is_no_whole_factor_is_refused_for_its_own_reason(
    checkpoint: Path, copy: Path, tensor: torch.Tensor, reason: str
) -> None:
    edit_adapter(copy, layers__1__self_attn__q_proj__lora_A__weight=tensor)
    with pytest.raises(WeightsError, match=reason):
        load(checkpoint, adapter=str(copy))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".weight", ".default.weight"),
        ("base_model.model.", "base_model.model.model."),
        ("base_model.model.", ""),
        ("base_model.model.", "_orig_mod.base_model.model."),
        ("base_model.model.layers.", "layers._fsdp_wrapped_module."),
    ],
)
def test_other_names_for_the_same_tensors_give_the_same_vectors(
    checkpoint: Path, adapter: Path, copy: Path, old: str, new: str
) -> None:
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, copy / ADAPTER_WEIGHTS)
    ours, truth = (load(checkpoint, adapter=str(folder)) for folder in (copy, adapter))
    np.testing.assert_array_equal(ours.encode_document(TEXTS), truth.encode_document(TEXTS))


@pytest.mark.parametrize("new", [".law.weight", ".default.weight"])
@pytest.mark.parametrize("keep", [True, False])
def test_tensors_of_two_adapters_are_refused(copy: Path, new: str, keep: bool) -> None:
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    old = next(iter(tensors))
    tensors[old.replace(".weight", new)] = tensors[old].clone() if keep else tensors.pop(old)
    save_file(tensors, copy / ADAPTER_WEIGHTS)
    with pytest.raises(WeightsError, match=r'tensors ".*" and ".*" are of two adapters; save each'):
        LoraAdapter.read(copy)


def test_what_the_adapters_folder_says_of_its_model_counts(
    checkpoint: Path, adapter: Path, copy: Path
) -> None:
    prompts = {"prompts": {"query": "query: "}}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    own, plain = load(checkpoint, adapter=str(copy)), load(checkpoint, adapter=str(adapter))
    assert own.max_length == 30
    assert own.name != plain.name
    assert_same(own.encode_query("snow"), plain.encode_document("query: snow"))
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(WeightsError, match='the pooling is "mean"'):
        load(checkpoint, adapter=str(copy))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, 'peft_type is "IA3"'),
        ({"peft_type": "PROMPT_TUNING", "r": None}, 'peft_type is "PROMPT_TUNING", and only LORA'),
        ({"r": None}, "r is null"),
        ({"use_dora": True}, "sets use_dora"),
        ({"alpha_pattern": {"q_proj": 3}}, "sets alpha_pattern"),
        ({"modules_to_save": ["norm"]}, "sets modules_to_save"),
        ({"bias": "all"}, "sets bias"),
        ({"what_comes_next_year": 0.5}, "sets what_comes_next_year"),
        ({"r": 5}, "do not both have rank r = 5"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": None}, "lora_alpha is null"),
        ({"lora_alpha": float("nan")}, "lora_alpha is NaN"),
        ({"lora_bias": True}, "sets lora_bias"),
        ({"rank_pattern": {"q_proj": 2}}, "sets rank_pattern"),
        ({"trainable_token_indices": [3]}, "sets trainable_token_indices"),
        ({"target_parameters": ["mlp.up_proj.weight"]}, "sets target_parameters"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "sets layer_replication"),
        ({"kasa_config": {"beta": 1e-4}}, "sets kasa_config"),
        (
            {"auto_mapping": {"base_model_class": "MistralBiModel", "parent_library": "own"}},
            'it was trained on a "MistralBiModel", and a MistralModel is served',
        ),
    ],
)
def test_a_configuration_with_unsupported_settings_is_refused(
    copy: Path, changes: dict[str, Any], named: str
) -> None:
    edit_json(copy / ADAPTER_CONFIG, **changes)
    with pytest.raises(WeightsError, match=named):
        LoraAdapter.read(copy)


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
def test_a_file_that_is_missing_or_damaged_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{}")
    with pytest.raises(WeightsError, match=str(copy / name)):
        LoraAdapter.read(copy)
    (copy / name).unlink()
    with pytest.raises(WeightsError, match=f"{copy / name}: the file is missing"):
        LoraAdapter.read(copy)


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_half_a_pair_is_refused(copy: Path, lost: str) -> None:
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    del tensors[next(name for name in tensors if lost in name)]
    save_file(tensors, copy / ADAPTER_WEIGHTS)
    with pytest.raises(WeightsError, match="do not both have rank r = 4"):
        LoraAdapter.read(copy)


def test_a_tensor_of_another_kind_is_refused(copy: Path) -> None:
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    tensors["base_model.model.embed_tokens.lora_embedding_A"] = torch.zeros(4, 32000)
    save_file(tensors, copy / ADAPTER_WEIGHTS)
    with pytest.raises(WeightsError, match=r'embed_tokens\.lora_embedding_A" is not A'):
        LoraAdapter.read(copy)


def test_one_for_other_shapes_is_refused(adapter: Path, tmp_path: Path) -> None:
    narrow = save_checkpoint(tmp_path / "narrow", hidden_size=32)
    with pytest.raises(
        WeightsError, match=r"needs \[.*the weights have \[.*; use an adapter of this model"
    ):
        load(narrow, adapter=str(adapter))
    flat = save_checkpoint(tmp_path / "flat", num_layers=1)
    with pytest.raises(WeightsError, match="the weights have no such tensor"):
        load(flat, adapter=str(adapter))


@pytest.mark.parametrize(
    ("base", "refused"),
    [("them/other", True), ("us/base", False), ("weights/base", False), ("", False)],
)
def test_one_for_another_base_is_refused(
    checkpoint: Path, copy: Path, tmp_path: Path, base: str, refused: bool
) -> None:
    whole = shutil.copytree(checkpoint, tmp_path / "whole")
    names = sorted(path.name for path in whole.iterdir())
    CheckpointManifest("us/base at 0123", hash_files(whole, names)).write(whole)
    edit_json(copy / ADAPTER_CONFIG, base_model_name_or_path=base)
    if not refused:
        assert load(whole, adapter=str(copy)).name
        return
    with pytest.raises(WeightsError, match='trained on "them/other", and the weights are us/base'):
        load(whole, adapter=str(copy))


def test_its_attributes_are_what_peft_wrote(adapter: Path) -> None:
    found = LoraAdapter.read(adapter)
    written = json.loads((adapter / ADAPTER_CONFIG).read_text())
    assert found.scale == written["lora_alpha"] / written["r"] == 3
    assert found.base == (written["base_model_name_or_path"] or "")
    assert len(found.pairs) == 3 * len(ALL)
