"""A function that runs `e5`, a small corpus, and a hub on a loopback port."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from commands import Run, runner
from corpus_tools import texts, write_rows
from damages import save_two_parts
from fake_hub import FakeHub, running_hub

from e5.cli.hub_models import E5, MODELS

PINNED = MODELS[E5]

# In the hub's repository beside the checkpoint, and not for us.
UNWANTED = {
    ".gitattributes": b"*.bin filter=lfs",
    "README.md": b"# e5-mistral-7b-instruct",
    "pytorch_model-00001-of-00001.bin": pickle.dumps({"pickled": "weights"}),
    "pytorch_model.bin.index.json": b'{"weight_map": {}}',
    "lora/adapter_model.bin": pickle.dumps({"pickled": "adapter"}),
    "lora/adapter_config.json": b"{}",
    "1_Pooling/model.safetensors": b"none has it",
    "old/1_Pooling/config.json": b"{}",
    "onnx/model.onnx": b"onnx",
    "openvino/model.safetensors": b"not at the top level",
}


@pytest.fixture
def run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command with the settings of `embedder`."""
    monkeypatch.setenv("E5_WEIGHTS", str(checkpoint))
    monkeypatch.setenv("E5_DTYPE", "float32")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(json, "dumps", json.dumps)  # `predict` patches it; undone after the test
    return runner(capsys)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with one TSV in its folder `in`."""
    rows = [
        {"name": f"p{i}", "kb": 100 * i, "section": "libs" if i % 2 else "utils", "text": text}
        for i, text in enumerate(texts(30))
    ]
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "all.tsv", rows)
    return tmp_path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two shards, without a manifest. Not to be altered."""
    return save_two_parts(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def hub(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the real client in this process talks to, with a cache of its own."""
    files = {path.name: path.read_bytes() for path in original.iterdir()} | UNWANTED
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setitem(MODELS, E5, replace(PINNED, checksums={}))  # these weights are made up
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    huggingface_hub.close_session()
    with running_hub(PINNED.repository, str(PINNED.revision), files) as hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
        huggingface_hub.close_session()
