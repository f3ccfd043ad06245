"""A checkpoint's tokenizer and template are read without its weights, and give what it reads."""

import shutil
from pathlib import Path

import pytest
from checkpoints import true_ids

from e5.checkpoint import CheckpointManifest
from e5.embedder import Embedder
from e5.errors import TokenizerError, WeightsError
from e5.prompt_tokenizer import PromptTokenizer
from e5.prompts import query_prompt


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with the small checkpoint's tokenizer alone."""
    (tmp_path / "weights").mkdir()
    shutil.copy(checkpoint / "tokenizer.json", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize(
    ("task", "symmetric"), [("web_search_query", False), ("sts_query", False), ("Find it", True)]
)
def test_texts_have_their_prompts_and_ids_are_the_embedders(
    folder: Path, embedder: Embedder, task: str, symmetric: bool
) -> None:
    reader = PromptTokenizer.read(folder, max_length=4096)
    sides = (["snow", "ice"], ["rain"])
    texts = reader.with_prompts(*sides, task=task, symmetric=symmetric)
    prompted = symmetric or task == "sts_query"
    assert texts == [
        query_prompt(task, "snow"),
        query_prompt(task, "ice"),
        query_prompt(task, "rain") if prompted else "rain",
    ]
    expected = embedder.tokenize(*sides, task=task, symmetric=symmetric)
    assert [each.token_ids for each in reader.tokenizer.encode(texts)] == [
        each.token_ids for each in expected
    ]
    assert expected[0].token_ids == true_ids(texts[0])


def test_the_template_is_the_manifests(folder: Path) -> None:
    CheckpointManifest("x", {}, template="query: {query}").write(folder)
    reader = PromptTokenizer.read(folder, max_length=4096)
    assert reader.with_prompts(["snow"]) == ["query: snow"]


def test_what_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(WeightsError):
        PromptTokenizer.read(folder, max_length=4096)
    (folder / "manifest.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError):
        PromptTokenizer.read(folder, max_length=4096)
