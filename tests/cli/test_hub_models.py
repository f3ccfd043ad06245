"""The table of models: each is pinned, and any other of the hub is taken with a warning."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import FakeHub

from e5.cli import hub_download
from e5.cli.hub_models import E5, MODELS
from e5.checkpoint import Checkpoint, CheckpointManifest
from e5.prompts import is_template
from e5.settings import Settings

PINNED = MODELS[E5]


def test_the_known_checksums_are_those_of_the_model() -> None:
    assert len(PINNED.shards) == 2
    for digest in PINNED.shards.values():
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_the_repository_and_its_revision_are_pinned() -> None:
    assert PINNED.repository == "intfloat/e5-mistral-7b-instruct"
    assert PINNED.revision == "07163b72af1488142a360786df853f237b1a3ca1"
    assert Path(Settings.weights) == Path("weights") / E5
    for model in MODELS.values():
        assert re.fullmatch("[0-9a-f]{40}", str(model.revision))
        assert is_template(model.template)


@pytest.mark.parametrize("name", ["Linq-Embed-Mistral", "Linq-AI-Research/Linq-Embed-Mistral"])
def test_another_model_of_the_table_goes_to_its_own_folder_with_its_template(
    hub: FakeHub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_weights, "WEIGHTS", tmp_path)
    template = "query: {query}, to {task}"
    model = replace(MODELS["Linq-Embed-Mistral"], template=template)
    monkeypatch.setitem(MODELS, "Linq-Embed-Mistral", model)
    hub.repository, hub.revision = model.repository, str(model.revision)
    assert download_weights.main([name]) == 0
    found = Checkpoint.find(tmp_path / "Linq-Embed-Mistral")
    assert found.template == template
    assert found.manifest is not None
    assert found.manifest.source == f"{model.repository} at {model.revision}"


def test_a_model_that_nobody_looked_at_is_taken_with_a_warning(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repository = "somebody/tuned-mistral"
    assert download_weights.main(["somebody/tuned-mistral", "--folder", str(tmp_path / "it")]) == 0
    assert "warning: somebody/tuned-mistral is none of" in capsys.readouterr().err
    manifest = CheckpointManifest.read(tmp_path / "it")
    assert manifest is not None
    assert manifest.source == f"somebody/tuned-mistral at {hub.revision}"


@pytest.mark.parametrize("name", ["mistral", "../weights", "a/b/c", "", "somebody/", "x\x1b/y"])
def test_a_name_of_no_model_is_refused_in_one_sentence(
    hub: FakeHub, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download_weights.main([name]) == 1
    error = capsys.readouterr().err
    assert error.endswith(".\n")
    assert error.count("\n") == 1
    assert "no model of this name; use one of e5-mistral-7b-instruct, " in error
    assert "\x1b" not in error
    assert not hub.fetched
