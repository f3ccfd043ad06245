"""`e5 download-weights` chooses the model and the folder; any other of the hub gets a warning."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import FakeHub

from e5.checkpoint import Checkpoint, CheckpointManifest
from e5.cli import download_weights_command, main
from e5.cli.hub_models import E5, MODELS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Linq-Embed-Mistral", "Linq-AI-Research/Linq-Embed-Mistral"])
def test_another_model_of_the_table_goes_to_its_own_folder_with_its_template(
    hub: FakeHub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()  # as in a clone
    monkeypatch.setattr(download_weights_command, "HOME", tmp_path)
    template = "query: {query}, to {task}"
    model = replace(MODELS["Linq-Embed-Mistral"], template=template)
    monkeypatch.setitem(MODELS, "Linq-Embed-Mistral", model)
    hub.repository, hub.revision = model.repository, str(model.revision)
    assert main(["download-weights", name]) == 0
    found = Checkpoint.find(tmp_path / "weights" / "Linq-Embed-Mistral")
    assert found.prompts.template == template
    assert found.manifest is not None
    assert found.manifest.source == f"{model.repository} at {model.revision}"


def test_outside_a_clone_the_weights_go_to_the_caller_s_folder(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(download_weights_command, "HOME", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert main(["download-weights"]) == 0
    assert hub.fetched
    assert Checkpoint.find(tmp_path / "weights" / E5).manifest is not None
    assert main(["download-weights", "--verify"]) == 0
    assert f"weights/{E5}: all " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--folder", "mine"], ["somebody/mine"]])
def test_without_a_folder_of_its_own_verify_reads_that_of_the_other_arguments(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(download_weights_command, "HOME", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert main(["download-weights", *arguments, "--verify"]) == 1
    error = capsys.readouterr().err
    assert "mine: there is no such weights folder" in error
    assert "warning" not in error


def test_a_model_that_nobody_looked_at_is_taken_with_a_warning(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repository = "somebody/tuned-mistral"
    assert (
        main(["download-weights", "somebody/tuned-mistral", "--folder", str(tmp_path / "it")]) == 0
    )
    assert "warning: somebody/tuned-mistral is not one of" in capsys.readouterr().err
    manifest = CheckpointManifest.read(tmp_path / "it")
    assert manifest is not None
    assert manifest.source == f"somebody/tuned-mistral at {hub.revision}"


@pytest.mark.parametrize("name", ["mistral", "../weights", "a/b/c", "", "somebody/", "x\x1b/y"])
def test_a_name_that_no_model_has_is_refused_in_one_sentence(
    hub: FakeHub, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download-weights", name]) == 1
    error = capsys.readouterr().err
    assert error.endswith(".\n")
    assert error.count("\n") == 1
    assert "no model of this name; use one of e5-mistral-7b-instruct, " in error
    assert "\x1b" not in error
    assert not hub.fetched
