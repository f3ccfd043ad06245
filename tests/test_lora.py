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


def test_the_fingerprint_tells_adapters_apart(checkpoint: Path, adapter: Path, copy: Path) -> None:
    tensors = tensors_of(copy / ADAPTER_WEIGHTS)
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, copy / ADAPTER_WEIGHTS)
    folders = [None, adapter, copy]
    names = [load(checkpoint, **({"adapter": str(f)} if f else {})).name for f in folders]
    assert len(set(names)) == 3
    assert names[1] == load(checkpoint, adapter=str(adapter)).name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, 'peft_type is "IA3"'),
        ({"use_dora": True}, "sets use_dora"),
        ({"alpha_pattern": {"q_proj": 3}}, "sets alpha_pattern"),
        ({"modules_to_save": ["norm"]}, "sets modules_to_save"),
        ({"bias": "all"}, "sets bias"),
        ({"what_comes_next_year": 0.5}, "sets what_comes_next_year"),
        ({"r": 5}, "do not both have rank r = 5"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": None}, "lora_alpha is null"),
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
    with pytest.raises(WeightsError, match=r'embed_tokens\.lora_embedding_A"'):
        LoraAdapter.read(copy)


def test_one_for_other_shapes_is_refused(adapter: Path, tmp_path: Path) -> None:
    narrow = save_checkpoint(tmp_path / "narrow", hidden_size=32)
    with pytest.raises(
        WeightsError, match=r"asks for \[.*the weights have \[.*; use an adapter of this model"
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
