"""Tensors: each reaches the model as it was stored, or is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, load, save_checkpoint
from damages import (
    FIRST,
    SECOND,
    SEEN_WITHOUT_MANIFEST,
    Damage,
    edit_json,
    save_two_parts,
    tensors_of,
)
from safetensors.torch import save_file

from e5.checkpoint import CONFIG, SINGLE, TOKENIZER, WEIGHT_INDEX, Checkpoint, checkpoint_files
from e5.errors import WeightsError
from e5.tensor_names import without_wrappers
from e5.weights import load_model

MINI = Path(__file__).parent.parent / "weights" / "e5-mini"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two parts, without a manifest. Not to be altered."""
    return save_two_parts(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def bare(original: Path, tmp_path: Path) -> Path:
    """A copy to damage, without a manifest."""
    return shutil.copytree(original, tmp_path / "bare")


def edit_tensors(
    path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    save_file(edit(tensors_of(path)), path)


# What does not load


@pytest.mark.slow
@pytest.mark.parametrize("damage", SEEN_WITHOUT_MANIFEST)
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_shard_that_is_no_safetensors_is_refused_by_name(
    bare: Path, name: str, damage: Damage
) -> None:
    damage(bare / name)
    with pytest.raises(WeightsError, match=f"{bare / name}: "):
        load(bare)


def test_a_pickle_named_in_the_index_is_not_loaded(bare: Path) -> None:
    torch.save(tensors_of(bare / SECOND), bare / "second.bin")
    index = json.loads((bare / WEIGHT_INDEX).read_text())
    index["weight_map"]["norm.weight"] = "second.bin"
    index["weight_map"] = {
        name: part.replace(SECOND, "second.bin") for name, part in index["weight_map"].items()
    }
    (bare / WEIGHT_INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="is in none of the weight files"):
        load(bare)


def test_a_missing_tensor_is_named(bare: Path) -> None:
    edit_tensors(bare / SECOND, lambda tensors: without(tensors, "norm.weight"))
    with pytest.raises(WeightsError, match=r"tensor norm\.weight is in none of the weight files"):
        load(bare)


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {other: tensor for other, tensor in tensors.items() if other != name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("norm.weight", torch.zeros(33), r"has shape \[33\], and config\.json needs \[32\]"),
        (
            "norm.weight",
            torch.zeros(1, 32),
            r"has shape \[1, 32\], and config\.json needs \[32\]",
        ),
        ("norm.weight", torch.zeros(32, dtype=torch.int8), "quantised ones are not served"),
        ("lm_head.weight", torch.zeros(32), "not part of a MistralModel; save only the"),
        ("layers.1.input_layernorm.weight", torch.zeros(32), "not part of a MistralModel"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    bare: Path, name: str, tensor: torch.Tensor, reason: str
) -> None:
    edit_tensors(bare / SECOND, lambda tensors: tensors | {name: tensor})
    with pytest.raises(WeightsError, match=f"{bare / SECOND}: tensor {name} .*{reason}"):
        load(bare)


# What loads


PREFIXES = [
    *("model.", "0.auto_model.", "0.model.", "base_model.model.", "base_model.model.model."),
    *("_orig_mod.", "module.", "_orig_mod.module.", "_fsdp_wrapped_module.", "_forward_module."),
    *("_orig_mod.model.", "module.model._orig_mod.", "encoder."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.slow
def test_names_with_somebody_s_prefix_load_where_that_is_certain(
    prefix: str, bare: Path, original: Path
) -> None:
    for name in (FIRST, SECOND):
        edit_tensors(bare / name, lambda tensors: {prefix + n: t for n, t in tensors.items()})
    if without_wrappers(prefix):  # a part beside the model can be told from its own
        edit_tensors(bare / SECOND, lambda tensors: tensors | {"lm_head.weight": torch.zeros(3)})
    assert np.array_equal(load(bare).encode_document(TEXTS), load(original).encode_document(TEXTS))
    edit_tensors(bare / SECOND, lambda tensors: without(tensors, f"{prefix}norm.weight"))
    with pytest.raises(WeightsError, match=r"tensor .* is (not part of a Mistral|in none of the)"):
        load(bare)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, "elsewhere", "inside"])
def test_weights_with_an_adapter_beside_them_are_served_with_it_or_not_at_all(
    bare: Path, tmp_path: Path, adapter: str | None
) -> None:
    lora = save_lora(tmp_path / "elsewhere")
    shutil.copytree(lora, bare, dirs_exist_ok=True)
    folders = {"elsewhere": lora, "inside": bare}
    options = {} if adapter is None else {"adapter": str(folders[adapter])}
    if adapter == "inside":
        assert load(bare, **options).name
        return
    with pytest.raises(
        WeightsError, match=f"{bare / 'adapter_config.json'}: the folder of the weights holds an ad"
    ):
        load(bare, **options)


def save_lora(folder: Path) -> Path:
    """An adapter of the checkpoint in two parts, as peft would write it."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.layers.0.self_attn.o_proj"
    factors = {
        f"{name}.lora_{f}.weight": torch.ones(s) for f, s in (("A", (1, 32)), ("B", (32, 1)))
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def test_wrappers_of_single_layers_come_off(bare: Path, original: Path) -> None:
    wrapped = {"layers.0": "layers.0._orig_mod", "mlp": "mlp._fsdp_wrapped_module"}

    def wrap(name: str) -> str:
        for part, inner in wrapped.items():
            name = name.replace(f"{part}.", f"{inner}.")
        return name

    for name in (FIRST, SECOND):
        edit_tensors(bare / name, lambda tensors: {wrap(n): t for n, t in tensors.items()})
    assert np.array_equal(load(bare).encode_document(TEXTS), load(original).encode_document(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_two_names_for_one_tensor_are_refused(bare: Path, prefix: str) -> None:
    extra = {f"{prefix}norm.weight": torch.zeros(32)}
    edit_tensors(bare / FIRST, lambda tensors: tensors | extra)
    with pytest.raises(
        WeightsError,
        match=rf"tensor {prefix}norm\.weight is also there as|is also there as {prefix}",
    ):
        load(bare)


def test_one_name_in_two_parts_is_refused(bare: Path) -> None:
    twice = {"norm.weight": torch.zeros(32)}
    edit_tensors(bare / FIRST, lambda tensors: tensors | twice)
    with pytest.raises(
        WeightsError, match=rf"{SECOND}: tensor norm\.weight is also there as .* in {FIRST}; save"
    ):
        load(bare)


def test_names_with_and_without_a_prefix_are_refused(bare: Path) -> None:
    for name in (FIRST, SECOND):
        edit_tensors(bare / name, lambda tensors: {f"model.{n}": t for n, t in tensors.items()})
    extra = {"norm.weight": torch.zeros(32)}
    edit_tensors(bare / SECOND, lambda tensors: tensors | extra)
    with pytest.raises(WeightsError, match=r"tensor norm\.weight is not part of a MistralModel"):
        load(bare)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["", "model.", "teacher."])
def test_two_whole_models_are_refused(bare: Path, other: str) -> None:
    for name in (FIRST, SECOND):
        edit_tensors(
            bare / name,
            lambda tensors: {
                f"{prefix}{n}": t.clone()
                for n, t in tensors.items()
                for prefix in ("student.", other)
            },
        )
    with pytest.raises(
        WeightsError, match=f'more than one model, with the prefixes .*"({other}|student.)"'
    ):
        load(bare)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["2.linear.weight", "score.weight", "custom_text_proj.weight", "model.pooler.weight"]
)
def test_a_part_beside_the_model_that_may_shape_vectors_is_refused(bare: Path, name: str) -> None:
    for part in (FIRST, SECOND):
        edit_tensors(bare / part, lambda tensors: {f"model.{n}": t for n, t in tensors.items()})
    edit_tensors(bare / SECOND, lambda tensors: tensors | {name: torch.zeros(32, 32)})
    with pytest.raises(WeightsError, match=f"tensor {name} is not part of a MistralModel"):
        load(bare)


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.self_attn.q_proj.base_layer.weight",
        "base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
    ],
)
def test_an_adapter_that_was_not_merged_is_refused_as_one(bare: Path, name: str) -> None:
    edit_tensors(bare / FIRST, lambda tensors: tensors | {name: torch.zeros(4, 4)})
    with pytest.raises(WeightsError, match="is of an adapter that was not merged; merge the"):
        load(bare)


@pytest.mark.slow
def test_tables_that_the_model_computes_itself_are_left_out(bare: Path, original: Path) -> None:
    tables = {
        "rotary_emb.inv_freq": torch.ones(4),
        "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    edit_tensors(bare / SECOND, lambda tensors: tensors | tables)
    assert np.array_equal(load(bare).encode_document(TEXTS), load(original).encode_document(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("name", [SINGLE, "model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("has_index", [False, True])
def test_one_whole_file_needs_no_index(
    name: str, has_index: bool, bare: Path, original: Path
) -> None:
    whole = tensors_of(bare / FIRST) | tensors_of(bare / SECOND)
    for part in (FIRST, SECOND):
        (bare / part).unlink()
    save_file(whole, bare / name)
    if not has_index:
        (bare / WEIGHT_INDEX).unlink()
    elif name != SINGLE:
        return  # which of the two is right is not certain
    assert np.array_equal(load(bare).encode_document(TEXTS), load(original).encode_document(TEXTS))


@pytest.mark.parametrize("part", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_never_leads_out_of_its_folder(part: str, bare: Path) -> None:
    edit_json(bare / WEIGHT_INDEX, weight_map={"norm.weight": part})
    with pytest.raises(WeightsError, match=r"which is not a file beside it"):
        checkpoint_files(bare)


@pytest.mark.slow
def test_a_checkpoint_in_parts_and_one_in_a_single_file_give_equal_vectors(
    original: Path, tmp_path: Path
) -> None:
    single = save_checkpoint(tmp_path / "single", hidden_size=32, num_layers=1)
    assert checkpoint_files(single) == [SINGLE, CONFIG, TOKENIZER]
    assert checkpoint_files(original) == [WEIGHT_INDEX, FIRST, SECOND, CONFIG, TOKENIZER]
    vectors = load(single).encode_document(TEXTS)
    np.testing.assert_array_equal(vectors, load(original).encode_document(TEXTS))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loaded", [torch.bfloat16, torch.float32])
def test_weights_load_in_the_dtype_asked_for_and_norms_in_float32(
    tmp_path: Path, stored: torch.dtype, loaded: torch.dtype
) -> None:
    save_checkpoint(tmp_path, hidden_size=32, num_layers=1, dtype=stored)
    saved = tensors_of(tmp_path / SINGLE)
    checkpoint = Checkpoint.find(tmp_path)
    model = load_model(checkpoint, device=torch.device("cpu"), dtype=loaded)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == saved.keys()
    for name, parameter in parameters.items():
        assert saved[name].dtype == stored
        assert parameter.dtype == (torch.float32 if parameter.ndim == 1 else loaded)
        assert torch.equal(parameter, saved[name].to(parameter.dtype))
        assert not parameter.requires_grad
    assert not model.training


def test_the_built_in_checkpoint_orders_the_model_cards_examples() -> None:
    """The queries and passages of the model card of intfloat/e5-mistral-7b-instruct."""
    embedder = load(MINI)
    queries = embedder.encode_query(["how much protein should a female eat", "summit define"])
    documents = embedder.encode_document(
        [
            "As a general guideline, the CDC's average requirement of protein for women ages 19 to "
            "70 is 46 grams per day. But, as you can see from this chart, you'll need to increase "
            "that if you're expecting or training for a marathon. Check out the chart below to see "
            "how much protein you should be eating each day.",
            "Definition of summit for English Language Learners. : 1  the highest point of a "
            "mountain : the top of a mountain. : 2  the highest level. : 3  a meeting or series of "
            "meetings between the leaders of two or more governments.",
        ]
    )
    scores = embedder.similarity(queries, documents)
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]
