"""Weights: what arrives, what is kept out, and what is refused by name.

The download runs through the real hub client against a hub on a loopback port. Damages are done to
small random checkpoints in two shards, with the real vocabulary.
"""

import json
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from checkpoints import save_checkpoint
from fake_hub import FakeHub, Fault, running_hub
from safetensors.torch import load, save_file

from e5 import Embedder, Settings, WeightsError
from e5.errors import TokenizerError
from e5.weights import Checkpoint, Manifest, checkpoint_files, hash_files, load_model

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "download_weights"
MINI = ROOT / "weights" / "e5-mini"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX, CONFIG, MANIFEST = "model.safetensors.index.json", "config.json", "manifest.json"
TEXTS = ["Paris", "The capital of France is Paris", "</s>", "\N{GRINNING FACE}"]

# In the hub's repository beside the checkpoint, and not for us.
UNWANTED = {
    ".gitattributes": b"*.bin filter=lfs",
    "README.md": b"# e5-mistral-7b-instruct",
    "pytorch_model-00001-of-00001.bin": pickle.dumps({"pickled": "weights"}),
    "pytorch_model.bin.index.json": b'{"weight_map": {}}',
    "lora/adapter_model.bin": pickle.dumps({"pickled": "adapter"}),
    "lora/adapter_config.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "onnx/model.onnx": b"onnx",
    "openvino/model.safetensors": b"not at the top level",
}

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two shards, without a manifest. Not to be altered."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    return save_checkpoint(folder, hidden_size=32, num_layers=1, max_shard_size="2MB")


@pytest.fixture(scope="module")
def other_shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The second shard of a checkpoint of the same shape, with other weights."""
    folder = tmp_path_factory.mktemp("weights") / "other"
    save_checkpoint(folder, hidden_size=32, num_layers=1, max_shard_size="2MB", seed=1)
    return (folder / SECOND).read_bytes()


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


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module: its `main` runs here, without seconds of imports per run."""
    loader = SourceFileLoader("download_weights", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def hub(
    original: Path, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """A hub that the real client in this process talks to, with a cache of its own."""
    files = {path.name: path.read_bytes() for path in original.iterdir()} | UNWANTED
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    huggingface_hub.close_session()
    with running_hub(script.REPOSITORY, script.REVISION, files) as hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
        huggingface_hub.close_session()


def settings(folder: Path) -> Settings:
    return Settings(weights=folder, device="cpu", dtype="float32")


def write_manifest(folder: Path) -> None:
    files = [path.name for path in folder.iterdir()]
    Manifest("made by a test", hash_files(folder, files)).write(folder)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(
    path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    save_file(edit(tensors_of(path)), path)


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """Without mapping the file, which the tests write over."""
    return load(path.read_bytes())


def is_one_sentence(text: str) -> bool:
    return text.endswith(".\n") and text.count("\n") == 1


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- Damages. Each is done to the file named.


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def pickle_in_its_place(path: Path) -> None:
    torch.save(tensors_of(path), path)


def remove(path: Path) -> None:
    path.unlink()


def swap_with_the_other_shard(path: Path) -> None:
    other = path.with_name(SECOND if path.name == FIRST else FIRST)
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


SEEN_WITHOUT_MANIFEST = [truncate, empty, lengthen, pickle_in_its_place, remove]
SEEN_WITH_MANIFEST = [*SEEN_WITHOUT_MANIFEST, flip_bit, swap_with_the_other_shard]


# --- The download.


def test_a_download_brings_the_checkpoint_and_nothing_else(
    hub: FakeHub, original: Path, script: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "weights"
    assert script.main(["--folder", str(folder)]) == 0
    wanted = {path.name for path in original.iterdir()}
    assert names_in(folder) == wanted | {MANIFEST}
    assert hub.fetched == dict.fromkeys(wanted, 1)
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.source == f"{script.REPOSITORY} at {script.REVISION}"
    assert manifest.files == {name: hub.files[name].sha256 for name in wanted}
    assert manifest.goldens == {}
    vectors = Embedder.load(settings(folder)).encode_document(TEXTS)
    np.testing.assert_array_equal(vectors, Embedder.load(settings(original)).encode_document(TEXTS))


def test_the_repository_and_its_revision_are_pinned(script: ModuleType) -> None:
    assert script.REPOSITORY == "intfloat/e5-mistral-7b-instruct"
    assert script.REVISION == "07163b72af1488142a360786df853f237b1a3ca1"
    assert script.FOLDER == ROOT / "weights" / "e5-mistral-7b-instruct"


def test_a_second_run_fetches_nothing(hub: FakeHub, script: ModuleType, tmp_path: Path) -> None:
    assert script.main(["--folder", str(tmp_path / "weights")]) == 0
    hub.fetched.clear()
    (tmp_path / "weights" / MANIFEST).unlink()
    assert script.main(["--folder", str(tmp_path / "weights")]) == 0
    assert not hub.fetched
    Checkpoint.find(tmp_path / "weights")


@pytest.mark.parametrize("damage", [remove, flip_bit, truncate])
@pytest.mark.parametrize("name", [SECOND, CONFIG])
def test_only_what_is_missing_or_damaged_is_fetched(
    hub: FakeHub, script: ModuleType, bare: Path, name: str, damage: Damage
) -> None:
    damage(bare / name)
    assert script.main(["--folder", str(bare)]) == 0
    assert hub.fetched == {name: 1}
    assert (bare / name).read_bytes() == hub.files[name].data


@pytest.mark.parametrize("name", [FIRST, CONFIG])
@pytest.mark.parametrize("fault", [Fault.FLIPPED_BIT, Fault.CUT_OFF, Fault.REFUSED])
def test_a_file_that_does_not_arrive_whole_is_named_and_not_kept(
    hub: FakeHub,
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    fault: Fault,
) -> None:
    hub.faults[name] = fault
    folder = tmp_path / "weights"
    assert script.main(["--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert name in error
    assert "run again" in error
    assert is_one_sentence(error)
    assert not names_in(folder) & {name, MANIFEST, script.STAGING}

    del hub.faults[name]
    kept = names_in(folder)
    hub.fetched.clear()
    assert script.main(["--folder", str(folder)]) == 0
    assert not kept & set(hub.fetched)
    Checkpoint.find(folder)


def test_an_interrupted_download_keeps_what_is_finished(
    hub: FakeHub, original: Path, script: ModuleType, tmp_path: Path
) -> None:
    """The script as a person runs it: by its own first line, ended with Ctrl-C."""
    hub.faults[FIRST] = Fault.STALLED
    folder = tmp_path / "weights"
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [SCRIPT, "--folder", folder], env=environment, stdout=file, stderr=file
        )
    try:
        assert hub.stalled.wait(60), output.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert output.read_text().endswith(
        "interrupted; finished files are kept, run again to go on.\n"
    )
    assert "Traceback" not in output.read_text()
    assert names_in(folder) == names_in(original) - {FIRST}

    hub.faults.clear()
    hub.fetched.clear()
    assert script.main(["--folder", str(folder)]) == 0
    assert hub.fetched == {FIRST: 1}


def test_what_a_killed_download_left_behind_makes_room_first(
    hub: FakeHub, script: ModuleType, bare: Path
) -> None:
    (bare / FIRST).unlink()
    hub.claimed_sizes[FIRST] = 10**18
    remains = bare / script.STAGING / ".cache" / "huggingface" / "download" / "x.incomplete"
    remains.parent.mkdir(parents=True)
    remains.write_bytes(b"half a shard")
    assert script.main(["--folder", str(bare)]) == 1
    assert not (bare / script.STAGING).exists()


def test_without_network_one_sentence_says_so(
    hub: FakeHub,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_hub("nobody/nothing", "0", {}) as gone:
        pass
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.endpoint)
    assert script.main(["--folder", str(tmp_path / "weights")]) == 1
    error = capsys.readouterr().err
    assert "the hub cannot be reached" in error
    assert "run again" in error
    assert is_one_sentence(error)
    assert not hub.fetched


def test_where_the_hubs_client_is_set_offline_one_sentence_says_so(
    hub: FakeHub,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert script.main(["--folder", str(tmp_path / "weights")]) == 1
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE" in error
    assert is_one_sentence(error)
    assert not hub.fetched


def test_a_hub_without_the_revision_is_told_of_in_one_sentence(
    hub: FakeHub, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.revision = "0" * 40
    assert script.main(["--folder", str(tmp_path / "weights")]) == 1
    error = capsys.readouterr().err
    assert "answered 404" in error
    assert script.REVISION in error
    assert is_one_sentence(error)


def test_a_disk_too_small_is_told_of_before_anything_is_fetched(
    hub: FakeHub, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.claimed_sizes[FIRST] = 10**18
    assert script.main(["--folder", str(tmp_path / "weights")]) == 1
    output = capsys.readouterr()
    assert "1000000000.0 GB to fetch" in output.out
    assert "free" in output.err
    assert is_one_sentence(output.err)
    assert not hub.fetched


def test_the_room_needed_is_that_of_the_missing_files(
    hub: FakeHub, script: ModuleType, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.claimed_sizes[FIRST] = 10**18
    (bare / SECOND).unlink()
    assert script.main(["--folder", str(bare)]) == 0
    assert "0.0 GB to fetch" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(
    hub: FakeHub, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert script.main(["--folder", str(tmp_path / "file" / "weights")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error
    assert error.count("\n") == 1
    assert not hub.fetched


def test_a_repository_without_a_whole_checkpoint_gets_no_manifest(
    hub: FakeHub, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {name: file for name, file in hub.files.items() if name != SECOND}
    assert script.main(["--folder", str(tmp_path / "weights")]) == 1
    assert SECOND in capsys.readouterr().err
    assert not (tmp_path / "weights" / MANIFEST).exists()


# --- Verification.


def test_a_good_folder_passes_without_network(
    script: ModuleType,
    verified: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert script.main(["--verify", str(verified)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    *lines, summary = output.out.splitlines()
    expected = hash_files(verified, sorted(names_in(verified) - {MANIFEST}))
    assert lines == [f"{digest}  {name}" for name, digest in expected.items()]
    assert f"all {len(expected)} files" in summary
    assert "made by a test" in summary


@pytest.mark.parametrize("damage", SEEN_WITH_MANIFEST)
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_damaged_shard_is_refused_by_name_before_it_is_loaded(
    script: ModuleType,
    verified: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Damage,
) -> None:
    damage(verified / name)
    either = FIRST if damage is swap_with_the_other_shard else name
    assert script.main(["--verify", str(verified)]) == 1
    output = capsys.readouterr()
    assert str(verified / either) in output.err
    assert is_one_sentence(output.err)
    assert output.out == ""
    with pytest.raises(WeightsError) as refusal:
        Embedder.load(settings(verified))
    assert str(refusal.value) == output.err.strip()


@pytest.mark.parametrize("damage", [flip_bit, truncate, empty, remove])
@pytest.mark.parametrize("name", [CONFIG, INDEX, "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_small_file_is_refused_by_name(verified: Path, name: str, damage: Damage) -> None:
    damage(verified / name)
    # Without its index the folder is that of a checkpoint in one file, which is then missing.
    named = "model.safetensors" if (name, damage) == (INDEX, remove) else name
    with pytest.raises(WeightsError, match=f"{verified / named}: "):
        Checkpoint.find(verified)


def test_a_shard_of_another_checkpoint_is_refused_by_name(
    verified: Path, other_shard: bytes
) -> None:
    (verified / SECOND).write_bytes(other_shard)
    with pytest.raises(WeightsError, match=f"{verified / SECOND}: damaged or altered"):
        Embedder.load(settings(verified))


def test_a_shard_that_the_manifest_does_not_know_is_refused_by_name(verified: Path) -> None:
    (verified / FIRST).rename(verified / "model-00003.safetensors")
    index = json.loads((verified / INDEX).read_text())
    index["weight_map"]["embed_tokens.weight"] = "model-00003.safetensors"
    (verified / INDEX).write_text(json.dumps(index))
    manifest = Manifest.read(verified)
    assert manifest is not None
    files = dict(manifest.files) | hash_files(verified, [INDEX])
    del files[FIRST]
    Manifest(manifest.source, files).write(verified)
    with pytest.raises(WeightsError, match=r"model-00003\.safetensors: not in manifest\.json"):
        Embedder.load(settings(verified))


def test_a_folder_without_a_manifest_cannot_be_verified(
    script: ModuleType, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--verify", str(bare)]) == 1
    error = capsys.readouterr().err
    assert str(bare / MANIFEST) in error
    assert is_one_sentence(error)


def test_a_folder_without_a_manifest_loads_and_says_that_it_was_not_verified(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Embedder.load(settings(bare))
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
    ],
)
def test_a_malformed_manifest_is_refused_by_name(bare: Path, text: str) -> None:
    (bare / MANIFEST).write_text(text)
    with pytest.raises(WeightsError, match=f"{bare / MANIFEST}: not a manifest"):
        Embedder.load(settings(bare))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({CONFIG: 5}, CONFIG),
        ({CONFIG: None}, CONFIG),
        ({"a\0b": "00"}, "a\0b"),
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
        Embedder.load(settings(verified))
    assert named in str(refusal.value)


def test_the_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest("a source", {"config.json": "00"}, {"\N{SNOWMAN}": (1, 5, 2)})
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_the_manifests_goldens_bind_the_tokenizer(verified: Path) -> None:
    manifest = Manifest.read(verified)
    assert manifest is not None
    Manifest(manifest.source, manifest.files, {"hello": (1, 5, 2)}).write(verified)
    with pytest.raises(TokenizerError, match="'hello'"):
        Embedder.load(settings(verified))


# --- What can be known without a manifest.


@pytest.mark.parametrize("damage", SEEN_WITHOUT_MANIFEST)
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_shard_that_is_no_safetensors_is_refused_by_name(
    bare: Path, name: str, damage: Damage
) -> None:
    damage(bare / name)
    with pytest.raises(WeightsError, match=f"{bare / name}: "):
        Embedder.load(settings(bare))


def test_pickled_weights_are_never_loaded(bare: Path) -> None:
    torch.save(tensors_of(bare / FIRST) | tensors_of(bare / SECOND), bare / "pytorch_model.bin")
    for name in (FIRST, SECOND, INDEX):
        (bare / name).unlink()
    with pytest.raises(WeightsError, match="pickled weights are never loaded"):
        Embedder.load(settings(bare))


def test_a_pickle_named_in_the_index_is_not_loaded(bare: Path) -> None:
    torch.save(tensors_of(bare / SECOND), bare / "second.bin")
    index = json.loads((bare / INDEX).read_text())
    index["weight_map"]["norm.weight"] = "second.bin"
    index["weight_map"] = {
        name: shard.replace(SECOND, "second.bin") for name, shard in index["weight_map"].items()
    }
    (bare / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="is in none of the weight files"):
        Embedder.load(settings(bare))


@pytest.mark.parametrize("name", ["nowhere", "tiny-file"])
def test_a_folder_that_is_not_there_names_the_two_ways_on(tmp_path: Path, name: str) -> None:
    (tmp_path / "tiny-file").touch()
    with pytest.raises(WeightsError) as refusal:
        Embedder.load(settings(tmp_path / name))
    assert str(refusal.value).startswith(f"{tmp_path / name}: there is no such weights folder; ")
    for way_on in ("scripts/download_weights", "E5_WEIGHTS=weights/e5-mini"):
        assert way_on in str(refusal.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"not JSON", b"\xff\xfe", b"[]", b"{}", b'{"weight_map": ["a"]}', b'{"weight_map": 5}'],
)
def test_an_index_that_is_none_is_refused_by_name(bare: Path, data: bytes) -> None:
    (bare / INDEX).write_bytes(data)
    with pytest.raises(WeightsError, match=f"{bare / INDEX}: not a safetensors index"):
        Embedder.load(settings(bare))


@pytest.mark.parametrize("shard", [5, None, "absent.safetensors", "../up.safetensors", "a\0b"])
def test_an_index_that_names_no_file_of_the_folder_is_refused(bare: Path, shard: Any) -> None:
    edit_json(bare / INDEX, weight_map={"norm.weight": shard})
    with pytest.raises(WeightsError, match="the file is missing"):
        Embedder.load(settings(bare))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; only 'mistral' is served"),
        ({"model_type": None}, "only 'mistral' is served"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_act": "nonesuch"}, "nonesuch"),
    ],
)
def test_a_configuration_of_another_kind_is_refused_by_name(
    bare: Path, changes: dict[str, Any], named: str
) -> None:
    edit_json(bare / CONFIG, **changes)
    with pytest.raises(WeightsError, match=f"{bare / CONFIG}: ") as refusal:
        Embedder.load(settings(bare))
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_configuration_that_is_none_is_refused_by_name(bare: Path, text: str) -> None:
    (bare / CONFIG).write_text(text)
    with pytest.raises(WeightsError, match=f"{bare / CONFIG}: not a model configuration"):
        Embedder.load(settings(bare))


def test_a_missing_tensor_is_named(bare: Path) -> None:
    edit_tensors(bare / SECOND, lambda tensors: without(tensors, "norm.weight"))
    with pytest.raises(WeightsError, match=r"tensor norm\.weight is in none of the weight files"):
        Embedder.load(settings(bare))


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {other: tensor for other, tensor in tensors.items() if other != name}


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("norm.weight", torch.zeros(33), r"has shape \[33\], config\.json asks for \[32\]"),
        ("norm.weight", torch.zeros(1, 32), r"has shape \[1, 32\], config\.json asks for \[32\]"),
        ("norm.weight", torch.zeros(32, dtype=torch.int8), "only floating-point weights"),
        ("lm_head.weight", torch.zeros(32), "none of a MistralModel's; of a MistralForCausalLM"),
        ("layers.1.input_layernorm.weight", torch.zeros(32), "none of a MistralModel's"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    bare: Path, name: str, tensor: torch.Tensor, reason: str
) -> None:
    edit_tensors(bare / SECOND, lambda tensors: tensors | {name: tensor})
    with pytest.raises(WeightsError, match=f"{bare / SECOND}: tensor {name} .*{reason}"):
        Embedder.load(settings(bare))


# --- What loads.


def test_a_checkpoint_in_shards_and_one_in_a_single_file_give_equal_vectors(
    original: Path, tmp_path: Path
) -> None:
    single = save_checkpoint(tmp_path / "single", hidden_size=32, num_layers=1)
    assert checkpoint_files(single) == ["model.safetensors", CONFIG, "tokenizer.json"]
    assert checkpoint_files(original) == [INDEX, FIRST, SECOND, CONFIG, "tokenizer.json"]
    vectors = Embedder.load(settings(single)).encode_document(TEXTS)
    np.testing.assert_array_equal(vectors, Embedder.load(settings(original)).encode_document(TEXTS))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loaded", [torch.bfloat16, torch.float32])
def test_weights_load_in_the_dtype_asked_for_and_norms_in_float32(
    tmp_path: Path, stored: torch.dtype, loaded: torch.dtype
) -> None:
    save_checkpoint(tmp_path, hidden_size=32, num_layers=1, dtype=stored)
    saved = tensors_of(tmp_path / "model.safetensors")
    model = load_model(tmp_path, device=torch.device("cpu"), dtype=loaded)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == saved.keys()
    for name, parameter in parameters.items():
        assert saved[name].dtype == stored
        assert parameter.dtype == (torch.float32 if parameter.ndim == 1 else loaded)
        assert torch.equal(parameter, saved[name].to(parameter.dtype))
        assert not parameter.requires_grad
    assert not model.training


def test_the_digests_are_those_of_the_files_that_shape_a_vector(verified: Path) -> None:
    names = [INDEX, FIRST, SECOND, CONFIG, "tokenizer.json"]
    assert Checkpoint.find(verified).digests == hash_files(verified, names)


# --- The built-in checkpoint.


def test_the_built_in_checkpoint_is_as_its_manifest_says() -> None:
    manifest = Checkpoint.find(MINI).manifest
    if manifest is None:
        pytest.skip("weights/e5-mini has no manifest")
    assert set(checkpoint_files(MINI)) <= manifest.files.keys()


def test_the_built_in_checkpoint_orders_the_model_cards_examples() -> None:
    """The queries and passages of the model card of intfloat/e5-mistral-7b-instruct."""
    embedder = Embedder.load(settings(MINI))
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
