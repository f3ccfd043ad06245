"""A checkpoint's prompts are its manifest's, else those that its other files name, else E5's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import load
from damages import edit_json, save_two_parts, write_manifest

from e5.checkpoint import MANIFEST, Checkpoint
from e5.errors import WeightsError
from e5.prompts import TEMPLATE, Prompts


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two parts, without a manifest. Not to be altered."""
    return save_two_parts(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def bare(original: Path, tmp_path: Path) -> Path:
    """A copy to write into, without a manifest."""
    return shutil.copytree(original, tmp_path / "bare")


def write_template(folder: Path, template: object) -> None:
    write_manifest(folder)
    edit_json(folder / MANIFEST, template=template)


def test_without_a_word_the_template_is_e5s_own(bare: Path) -> None:
    assert Checkpoint.find(bare).prompts.template == TEMPLATE
    write_manifest(bare)
    assert "template" not in json.loads((bare / MANIFEST).read_text())
    assert Checkpoint.find(bare).prompts.template == TEMPLATE
    edit_json(bare / MANIFEST, template=TEMPLATE)
    assert Checkpoint.find(bare).prompts.template == TEMPLATE


@pytest.mark.parametrize("template", ["query: {query}", "{query}\n{task}", "{{}} {task}: {query}"])
def test_a_manifest_may_name_another(bare: Path, template: str) -> None:
    write_template(bare, template)
    assert Checkpoint.find(bare).prompts.template == template


@pytest.mark.parametrize(
    "template",
    ["", "query: ", "{task}", "{query} {query}", "{query} {0}", "{query", "{query!r}", 5, None, []],
)
def test_a_template_that_is_none_is_refused_in_one_sentence(bare: Path, template: object) -> None:
    write_template(bare, template)
    with pytest.raises(WeightsError, match=f"^{bare / MANIFEST}: the template is ") as refusal:
        load(bare)
    assert "; use {query} once and {task} at most once" in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


PROMPTS_FILE = "config_sentence_transformers.json"


@pytest.mark.slow
@pytest.mark.parametrize("said", [None, "query: {query}"])
def test_without_one_in_the_manifest_it_is_what_the_other_files_say(
    bare: Path, said: str | None
) -> None:
    (bare / PROMPTS_FILE).write_text('{"prompts": {"query": "query: ", "passage": "p: "}}')
    write_manifest(bare)
    if said is not None:
        edit_json(bare / MANIFEST, template=said)
    assert Checkpoint.find(bare).prompts == Prompts("query: {query}", "p: ")


def test_a_template_that_contradicts_the_other_files_is_refused(bare: Path) -> None:
    (bare / PROMPTS_FILE).write_text('{"prompts": {"query": "query: "}}')
    write_template(bare, TEMPLATE)
    with pytest.raises(
        WeightsError,
        match=rf'^{bare / MANIFEST}: the template is "Instruct: .* and {PROMPTS_FILE} says '
        r'"query: {query}"; delete the entry template to take the other',
    ):
        Checkpoint.find(bare)


@pytest.mark.slow
def test_two_checkpoints_that_differ_in_their_template_alone_differ_in_their_queries(
    original: Path, tmp_path: Path
) -> None:
    ours, other = (Path(shutil.copytree(original, tmp_path / at / "tiny")) for at in "ab")
    write_manifest(ours)
    write_template(other, "query: {query}")
    one, two = load(ours), load(other)
    assert one.name != two.name
    assert not np.allclose(one.encode_query("snow"), two.encode_query("snow"))
    np.testing.assert_array_equal(one.encode_document("snow"), two.encode_document("snow"))
    bare = one.encode_query("snow", task=""), two.encode_query("snow", task="")
    np.testing.assert_array_equal(*bare)
