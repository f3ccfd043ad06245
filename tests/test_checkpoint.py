"""A checkpoint's folder: what is missing, damaged or unknown is refused by name."""

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load
from damages import (
    FIRST,
    SECOND,
    SEEN_WITH_MANIFEST,
    Damage,
    edit_json,
    empty,
    flip_bit,
    lengthen,
    remove,
    save_two_parts,
    swap_with_the_other_part,
    tensors_of,
    truncate,
    write_manifest,
)

from e5.checkpoint import (
    CONFIG,
    MANIFEST,
    SINGLE,
    TOKENIZER,
    WEIGHT_INDEX,
    Checkpoint,
    CheckpointManifest,
    checkpoint_files,
    hash_files,
)
from e5.declarations import Declarations
from e5.errors import TokenizerError, WeightsError
from e5.prompts import TEMPLATE, Prompts

MINI = Path(__file__).parent.parent / "weights" / "e5-mini"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two parts, without a manifest. Not to be altered."""
    return save_two_parts(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def bare(original: Path, tmp_path: Path) -> Path:
    """A copy to damage, without a manifest."""
    return shutil.copytree(original, tmp_path / "bare")


@pytest.fixture
def verified(original: Path, tmp_path: Path) -> Path:
    """A copy to damage, with a manifest."""
    folder = shutil.copytree(original, tmp_path / "verified")
    write_manifest(folder)
    return folder


# With a manifest


@pytest.mark.parametrize("damage", SEEN_WITH_MANIFEST)
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_damaged_shard_is_refused_by_name_before_it_is_loaded(
    verified: Path, name: str, damage: Damage
) -> None:
    damage(verified / name)
    either = FIRST if damage is swap_with_the_other_part else name
    with pytest.raises(WeightsError, match=f"^{verified / either}: ") as refusal:
        Checkpoint.find(verified)
    with pytest.raises(WeightsError) as again:
        load(verified)
    assert str(again.value) == str(refusal.value)


@pytest.mark.parametrize("damage", [flip_bit, truncate, empty, remove])
@pytest.mark.parametrize("name", [CONFIG, WEIGHT_INDEX, TOKENIZER, "tokenizer_config.json"])
def test_a_damaged_small_file_is_refused_by_name(verified: Path, name: str, damage: Damage) -> None:
    damage(verified / name)
    # Without its index the folder is that of a checkpoint in one file, which is then missing.
    named = SINGLE if (name, damage) == (WEIGHT_INDEX, remove) else name
    with pytest.raises(WeightsError, match=f"{verified / named}: "):
        Checkpoint.find(verified)


def test_a_shard_of_another_checkpoint_is_refused_by_name(verified: Path, tmp_path: Path) -> None:
    other = save_two_parts(tmp_path / "other", seed=1)
    (verified / SECOND).write_bytes((other / SECOND).read_bytes())
    with pytest.raises(WeightsError, match=f"{verified / SECOND}: damaged or altered"):
        load(verified)


def test_a_shard_that_the_manifest_does_not_know_is_refused_by_name(verified: Path) -> None:
    (verified / FIRST).rename(verified / "model-00003.safetensors")
    index = json.loads((verified / WEIGHT_INDEX).read_text())
    index["weight_map"]["embed_tokens.weight"] = "model-00003.safetensors"
    (verified / WEIGHT_INDEX).write_text(json.dumps(index))
    manifest = CheckpointManifest.read(verified)
    assert manifest is not None
    files = dict(manifest.files) | hash_files(verified, [WEIGHT_INDEX])
    del files[FIRST]
    CheckpointManifest(manifest.source, files).write(verified)
    with pytest.raises(WeightsError, match=r"model-00003\.safetensors: not in manifest\.json"):
        load(verified)


def test_a_folder_without_a_manifest_loads_and_says_that_it_was_not_verified(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(bare)
    assert f"{bare} has no manifest.json" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"source": "", "goldens": {}}',
        '{"source": "", "files": {}}',
        '{"source": "", "goldens": {}, "files": ["config.json"]}',
        '{"source": "", "goldens": {"a": 5}, "files": {}}',
        '{"source": "", "goldens": {"a": []}, "files": {}}',
    ],
)
def test_a_malformed_manifest_is_refused_by_name(bare: Path, text: str) -> None:
    (bare / MANIFEST).write_text(text)
    with pytest.raises(WeightsError, match=f"{bare / MANIFEST}: not a manifest"):
        load(bare)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHT_INDEX])
def test_a_file_that_may_not_be_read_is_named(
    verified: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path, encoding: str) -> str:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return path.read_bytes().decode(encoding)

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(WeightsError, match=f"{name}: not a .*Permission denied"):
        load(verified)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({CONFIG: 5}, CONFIG),
        ({CONFIG: None}, CONFIG),
        ({"a\0b": "00"}, "a b: cannot be read"),  # NUL is no printable character
        ({"absent": "00"}, "absent"),
    ],
)
def test_a_manifest_that_does_not_fit_the_folder_names_the_file(
    verified: Path, files: dict[str, Any], named: str
) -> None:
    manifest = json.loads((verified / MANIFEST).read_text())
    manifest["files"] |= files
    (verified / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError) as refusal:
        load(verified)
    assert named in str(refusal.value)


def test_the_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = CheckpointManifest("a source", {"config.json": "00"}, {"\N{SNOWMAN}": (1, 5, 2)})
    manifest.write(tmp_path)
    assert CheckpointManifest.read(tmp_path) == manifest


def test_the_manifests_goldens_bind_the_tokenizer(verified: Path) -> None:
    manifest = CheckpointManifest.read(verified)
    assert manifest is not None
    CheckpointManifest(manifest.source, manifest.files, {"hello": (1, 5, 2)}).write(verified)
    with pytest.raises(TokenizerError, match="'hello'"):
        load(verified)


# Without one


def test_pickled_weights_are_never_loaded(bare: Path) -> None:
    torch.save(tensors_of(bare / FIRST) | tensors_of(bare / SECOND), bare / "pytorch_model.bin")
    for name in (FIRST, SECOND, WEIGHT_INDEX):
        (bare / name).unlink()
    with pytest.raises(WeightsError, match="pickled weights are never loaded"):
        load(bare)


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 2500, "a\nb\x1b[31m"])
def test_a_name_that_no_folder_can_have_is_a_short_refusal(name: str) -> None:
    with pytest.raises(WeightsError, match="there is no such weights folder") as refusal:
        load(Path(name))
    assert len(str(refusal.value)) < 600
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("name", ["nowhere", "tiny-file"])
def test_a_folder_that_is_not_there_names_the_two_ways_on(tmp_path: Path, name: str) -> None:
    (tmp_path / "tiny-file").touch()
    with pytest.raises(WeightsError) as refusal:
        load(tmp_path / name)
    assert str(refusal.value).startswith(f"{tmp_path / name}: there is no such weights folder; ")
    for way_on in ("scripts/download_weights", "E5_WEIGHTS=weights/e5-mini"):
        assert way_on in str(refusal.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"not JSON", b"\xff\xfe", b"[]", b"{}", b'{"weight_map": ["a"]}', b'{"weight_map": 5}'],
)
def test_an_index_that_is_none_is_refused_by_name(bare: Path, data: bytes) -> None:
    (bare / WEIGHT_INDEX).write_bytes(data)
    with pytest.raises(WeightsError, match=f"{bare / WEIGHT_INDEX}: not a safetensors index"):
        load(bare)


@pytest.mark.parametrize("part", [5, None, "absent.safetensors", "../up.safetensors", "a\0b"])
def test_an_index_that_names_no_file_of_the_folder_is_refused(bare: Path, part: Any) -> None:
    edit_json(bare / WEIGHT_INDEX, weight_map={"norm.weight": part})
    with pytest.raises(WeightsError, match=r"the file is missing|which is not a file beside it"):
        load(bare)


def test_a_folder_that_is_another_kind_of_model_is_refused_after_its_hashes(bare: Path) -> None:
    (bare / "modules.json").write_text('[{"type": "custom_st.Transformer", "path": ""}]')
    with pytest.raises(WeightsError, match=f'^{bare / "modules.json"}: module 0 is "custom_st'):
        Checkpoint.find(bare)


def test_a_folder_of_an_adapter_alone_names_the_two_settings(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        WeightsError, match="the folder holds an adapter alone; set E5_ADAPTER to this folder, and"
    ):
        Checkpoint.find(tmp_path)


# The files that are found


def test_the_digests_are_those_of_the_files_that_shape_a_vector(verified: Path) -> None:
    names = [WEIGHT_INDEX, FIRST, SECOND, CONFIG, TOKENIZER]
    assert Checkpoint.find(verified).digests == hash_files(verified, names)


def test_the_built_in_checkpoint_is_as_its_manifest_says() -> None:
    manifest = Checkpoint.find(MINI).manifest
    if manifest is None:
        pytest.skip("weights/e5-mini has no manifest")
    assert set(checkpoint_files(MINI)) <= manifest.files.keys()


def test_the_files_come_with_their_weights_in_order(verified: Path) -> None:
    assert checkpoint_files(verified) == [WEIGHT_INDEX, FIRST, SECOND, CONFIG, TOKENIZER]
    assert Checkpoint.find(verified).weight_files == [FIRST, SECOND]
    assert Checkpoint.find(MINI).weight_files == [SINGLE]


def test_a_digest_is_the_sha256_of_the_whole_file(original: Path) -> None:
    names = [SECOND, CONFIG, FIRST]
    truth = {name: hashlib.sha256((original / name).read_bytes()).hexdigest() for name in names}
    assert hash_files(original, names) == truth
    assert list(hash_files(original, names)) == names


def test_a_file_that_cannot_be_read_is_named(original: Path) -> None:
    with pytest.raises(WeightsError, match=f"^{original / 'absent'}: cannot be read"):
        hash_files(original, [CONFIG, "absent"])


def test_the_name_is_the_folders_own_whichever_link_led_there(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(original)
    monkeypatch.chdir(original)
    for way in (original, tmp_path / "link", Path(), original / ".." / original.name):
        assert Checkpoint.find(way).name == "tiny"


# The fingerprint


@pytest.fixture
def found(verified: Path) -> Checkpoint:
    return Checkpoint.find(verified)


def fingerprint(checkpoint: Checkpoint, *, dtype: str = "torch.float16", length: int = 512) -> str:
    return checkpoint.fingerprint(dtype=dtype, max_length=length)


def test_fingerprints_of_earlier_releases_stay_as_they_are() -> None:
    folder = Checkpoint(Path("anywhere"), {"config.json": "00"}, None)
    assert fingerprint(folder) == "dd49d01e5962"
    merged = folder.fingerprint(dtype="torch.float16", max_length=512, adapter={"a": "1"})
    assert merged == "64c9392c69a9"


def test_a_fingerprint_is_twelve_hex_digits_and_always_the_same(
    found: Checkpoint, original: Path
) -> None:
    assert fingerprint(found) == fingerprint(found)
    assert len(fingerprint(found)) == 12
    int(fingerprint(found), 16)
    assert fingerprint(Checkpoint.find(original)) == fingerprint(found)  # without a manifest
    turned = dict(reversed([*found.digests.items()]))
    assert fingerprint(replace(found, digests=turned)) == fingerprint(found)


def with_template(found: Checkpoint, template: str) -> Checkpoint:
    assert found.manifest is not None
    return replace(found, manifest=replace(found.manifest, template=template))


@pytest.mark.parametrize("name", [WEIGHT_INDEX, FIRST, SECOND, CONFIG, TOKENIZER])
@pytest.mark.parametrize("damage", [flip_bit, lengthen])
def test_it_changes_with_one_bit_of_any_file_that_shapes_a_vector(
    bare: Path, name: str, damage: Damage
) -> None:
    before = fingerprint(Checkpoint.find(bare))
    damage(bare / name)
    digests = hash_files(bare, [WEIGHT_INDEX, FIRST, SECOND, CONFIG, TOKENIZER])
    assert fingerprint(Checkpoint(bare, digests, None)) != before


def test_each_ingredient_counts(found: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = dict(found.digests)
    renamed = {f"renamed-{name}": digest for name, digest in digests.items()}
    fingerprints = [
        fingerprint(found),
        fingerprint(found, dtype="torch.bfloat16"),
        fingerprint(found, length=511),
        fingerprint(replace(found, digests=renamed)),
        fingerprint(replace(found, digests=digests | {FIRST: digests[SECOND]})),
        fingerprint(with_template(found, "query: {query}")),
        fingerprint(with_template(found, TEMPLATE + " ")),
    ]
    with monkeypatch.context() as patch:
        patch.setattr("e5.checkpoint.RULE", "another rule")
        fingerprints.append(fingerprint(found))
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprint(found) == fingerprints[0]


def test_the_folders_own_prompts_count(found: Checkpoint) -> None:
    own = [
        Prompts(),
        Prompts("query: {query}"),
        Prompts(before_document="passage: "),
        Prompts(before_query_by_name={"law": "Law: "}),
        Prompts(before_query_by_name={"law": "Law:"}),
    ]
    said = [replace(found, declarations=Declarations(prompts)) for prompts in own]
    assert [checkpoint.prompts for checkpoint in said] == own
    assert len({fingerprint(checkpoint) for checkpoint in said}) == len(own)
    assert fingerprint(said[0]) == fingerprint(found)
    given = [found.fingerprint(dtype="torch.float16", max_length=512, prompts=p) for p in own]
    assert given == [fingerprint(checkpoint) for checkpoint in said]


def test_what_shapes_no_vector_does_not_count(found: Checkpoint, tmp_path: Path) -> None:
    assert found.manifest is not None
    other_origin = replace(found.manifest, source="elsewhere", goldens={"a": (1, 5, 2)})
    for other in (replace(found, manifest=other_origin), replace(found, folder=tmp_path)):
        assert fingerprint(other) == fingerprint(found)
