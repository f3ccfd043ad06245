"""The download, and the check of a folder, through the real hub client against a loopback hub."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from checkpoints import TEXTS, load
from damages import (
    FIRST,
    SECOND,
    SEEN_WITH_MANIFEST,
    Damage,
    flip_bit,
    remove,
    swap_with_the_other_part,
    truncate,
    write_manifest,
)
from fake_hub import FakeHub, Fault, RemoteFile, running_hub

from e5.checkpoint import CONFIG, MANIFEST, Checkpoint, CheckpointManifest, hash_files
from e5.cli import main
from e5.cli.hub_download import STAGING
from e5.cli.hub_models import E5, MODELS
from e5.errors import WeightsError

ROOT = Path(__file__).parents[2]
PINNED = MODELS[E5]
REVISION = str(PINNED.revision)

# The command, for weights that are made up.
MADE_UP = """
import sys
from dataclasses import replace
from e5.cli import main
from e5.cli.hub_models import E5, MODELS
MODELS[E5] = replace(MODELS[E5], checksums={})
sys.exit(main())
"""


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


def is_one_sentence(text: str) -> bool:
    return text.endswith(".\n") and text.count("\n") == 1


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# The download


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "elsewhere.safetensors"])
def test_a_hub_with_other_weights_than_the_known_ones_is_refused(
    name: str,
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(MODELS, E5, replace(PINNED, checksums={name: "0" * 64}))
    assert main(["download-weights", "--folder", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert is_one_sentence(said)
    assert said.startswith(f"{name}: {hub.endpoint} reports the checksum ")
    assert f"it is {'0' * 64}; nothing was fetched" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_download_brings_the_checkpoint_and_nothing_else(
    hub: FakeHub, original: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "weights"
    assert main(["download-weights", "--folder", str(folder)]) == 0
    wanted = {path.name for path in original.iterdir()}
    assert names_in(folder) == wanted | {MANIFEST}
    assert hub.fetched == dict.fromkeys(wanted, 1)
    manifest = CheckpointManifest.read(folder)
    assert manifest is not None
    assert manifest.source == f"{PINNED.repository} at {REVISION}"
    assert manifest.files == {name: hub.files[name].sha256 for name in wanted}
    assert manifest.goldens == {}
    vectors = load(folder).encode_document(TEXTS)
    np.testing.assert_array_equal(vectors, load(original).encode_document(TEXTS))


def test_what_the_folder_says_of_its_pooling_comes_too(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder = "1_Pooling/config.json", tmp_path / "weights"
    mean = RemoteFile(name, b'{"pooling_mode_mean_tokens": true}')
    hub.files = {**hub.files, name: mean}
    assert main(["download-weights", "--folder", str(folder)]) == 0
    assert (folder / name).read_bytes() == hub.files[name].data
    assert main(["download-weights", "--verify", str(folder)]) == 1
    assert f"{folder / name}: the pooling is " in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_run_fetches_nothing(hub: FakeHub, tmp_path: Path) -> None:
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 0
    hub.fetched.clear()
    (tmp_path / "weights" / MANIFEST).unlink()
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 0
    assert not hub.fetched
    Checkpoint.find(tmp_path / "weights")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [remove, flip_bit, truncate])
@pytest.mark.parametrize("name", [SECOND, CONFIG])
def test_only_what_is_missing_or_damaged_is_fetched(
    hub: FakeHub, bare: Path, name: str, damage: Damage
) -> None:
    damage(bare / name)
    assert main(["download-weights", "--folder", str(bare)]) == 0
    assert hub.fetched == {name: 1}
    assert (bare / name).read_bytes() == hub.files[name].data


@pytest.mark.slow
@pytest.mark.parametrize("name", [FIRST, CONFIG])
@pytest.mark.parametrize("fault", [Fault.FLIPPED_BIT, Fault.CUT_OFF, Fault.REFUSED])
def test_a_file_that_does_not_arrive_whole_is_named_and_not_kept(
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    fault: Fault,
) -> None:
    hub.faults[name] = fault
    folder = tmp_path / "weights"
    assert main(["download-weights", "--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert name in error
    assert "run it again" in error
    assert is_one_sentence(error)
    assert not names_in(folder) & {name, MANIFEST, STAGING}

    del hub.faults[name]
    kept = names_in(folder)
    hub.fetched.clear()
    assert main(["download-weights", "--folder", str(folder)]) == 0
    assert not kept & set(hub.fetched)
    Checkpoint.find(folder)


@pytest.mark.slow  # starts a process and interrupts it
def test_an_interrupted_download_keeps_what_is_finished(
    hub: FakeHub, original: Path, tmp_path: Path
) -> None:
    """The command as a person runs it: a process of its own, ended with Ctrl-C."""
    hub.faults[FIRST] = Fault.STALLED
    folder = tmp_path / "weights"
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", MADE_UP, "download-weights", "--folder", folder],
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        assert hub.stalled.wait(60), output.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert output.read_text().endswith(
        "interrupted; what is finished is kept, run it again to continue\n"
    )
    assert "Traceback" not in output.read_text()
    assert names_in(folder) == names_in(original) - {FIRST}

    hub.faults.clear()
    hub.fetched.clear()
    assert main(["download-weights", "--folder", str(folder)]) == 0
    assert hub.fetched == {FIRST: 1}


def test_what_a_killed_download_left_behind_makes_room_first(hub: FakeHub, bare: Path) -> None:
    (bare / FIRST).unlink()
    hub.claimed_sizes[FIRST] = 10**18
    staging = bare / STAGING
    remains = staging / ".cache" / "huggingface" / "download" / "x.incomplete"
    remains.parent.mkdir(parents=True)
    remains.write_bytes(b"half a shard")
    assert main(["download-weights", "--folder", str(bare)]) == 1
    assert not staging.exists()


def test_without_network_one_sentence_says_so(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_hub("nobody/nothing", "0", {}) as gone:
        pass
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.endpoint)
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 1
    error = capsys.readouterr().err
    assert "the hub cannot be reached" in error
    assert "run it again" in error
    assert is_one_sentence(error)
    assert not hub.fetched


def test_where_the_hubs_client_is_set_offline_one_sentence_says_so(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 1
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE" in error
    assert is_one_sentence(error)
    assert not hub.fetched


def test_a_hub_without_the_revision_is_refused_in_one_sentence(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.revision = "0" * 40
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 1
    error = capsys.readouterr().err
    assert "answered 404" in error
    assert REVISION in error
    assert is_one_sentence(error)


def test_a_disk_too_small_is_refused_before_anything_is_fetched(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.claimed_sizes[FIRST] = 10**18
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 1
    output = capsys.readouterr()
    assert "1000000000.0 GB to fetch" in output.out
    assert "free" in output.err
    assert is_one_sentence(output.err)
    assert not hub.fetched


def test_the_room_needed_is_that_of_the_missing_files(
    hub: FakeHub, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.claimed_sizes[FIRST] = 10**18
    (bare / SECOND).unlink()
    assert main(["download-weights", "--folder", str(bare)]) == 0
    assert "0.0 GB to fetch" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["download-weights", "--folder", str(tmp_path / "file" / "weights")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error
    assert error.count("\n") == 1
    assert not hub.fetched


def test_a_repository_without_a_whole_checkpoint_gets_no_manifest(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {name: file for name, file in hub.files.items() if name != SECOND}
    assert main(["download-weights", "--folder", str(tmp_path / "weights")]) == 1
    assert SECOND in capsys.readouterr().err
    assert not (tmp_path / "weights" / MANIFEST).exists()


# The check of a folder


def test_a_good_folder_passes_without_network(
    verified: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert main(["download-weights", "--verify", str(verified)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    *lines, summary = output.out.splitlines()
    expected = hash_files(verified, sorted(names_in(verified) - {MANIFEST}))
    assert lines == [f"{digest}  {name}" for name, digest in expected.items()]
    assert f"all {len(expected)} files" in summary
    assert "made by a test" in summary


@pytest.mark.parametrize("damage", SEEN_WITH_MANIFEST)
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_damaged_shard_is_refused_in_the_words_of_loading(
    verified: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Damage,
) -> None:
    damage(verified / name)
    either = FIRST if damage is swap_with_the_other_part else name
    assert main(["download-weights", "--verify", str(verified)]) == 1
    output = capsys.readouterr()
    assert str(verified / either) in output.err
    assert is_one_sentence(output.err)
    assert output.out == ""
    with pytest.raises(WeightsError) as refusal:
        Checkpoint.find(verified)
    assert str(refusal.value) == output.err.strip()


def test_a_folder_without_a_manifest_cannot_be_verified(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download-weights", "--verify", str(bare)]) == 1
    error = capsys.readouterr().err
    assert str(bare / MANIFEST) in error
    assert is_one_sentence(error)
