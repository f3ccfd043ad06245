"""A manifest is read as it was written, and the rule in which two differ is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from e5.corpora.filesystem import open_filesystem
from e5.corpora.manifest import ROW_RULES, VECTOR_RULES, Manifest, fingerprint_of
from e5.corpora.shard_folder import ShardFolder
from e5.errors import InputError


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": "a@b"}'])
def test_a_manifest_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "_manifest.json").write_text(content)
    with pytest.raises(InputError, match="not of this project"):
        ShardFolder(str(tmp_path)).manifest()


RULES = (*VECTOR_RULES, "normalize", *ROW_RULES)
MANIFEST = Manifest(
    model="e5-mini@3f61f8",
    task="sts_query",
    normalize=True,
    dimensions=64,
    dtype="float16",
    text_columns=("title", "text"),
    id_column=None,
    number="float",
    keep={"year": "int64"},
    passages=256,
    overlap=32,
    files={"a.jsonl": "12-ab", "ß.csv": "7-cd"},
    shards={"part-000000.parquet": "12-34"},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    filesystem, folder = open_filesystem(str(tmp_path))
    assert Manifest.read(filesystem, f"{folder}/m.json") is None
    MANIFEST.write(filesystem, f"{folder}/m.json")
    assert Manifest.read(filesystem, f"{folder}/m.json") == MANIFEST


def test_one_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(
        """{"model": "a@b", "task": "", "normalize": false, "dimensions": 64, "dtype": "float16",
        "text_columns": ["text"], "id_column": "id", "rows_per_shard": 50, "files": {"a": "1-2"},
        "something newer": 1}"""
    )
    read = Manifest.read(*open_filesystem(str(tmp_path / "m.json")))
    assert read is not None
    assert (read.text_columns, read.id_column, read.files) == (("text",), "id", {"a": "1-2"})
    assert (read.number, read.passages, read.keep, read.shards) == ("halffloat", None, {}, {})


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("model", "e5-mini@other"),
        ("task", ""),
        ("normalize", False),
        ("dimensions", 8),
        ("dtype", "float32"),
        ("text_columns", ("text",)),
        ("id_column", "id"),
        ("passages", None),
        ("overlap", 0),
        ("keep", {"year": "string"}),
    ],
)
def test_the_rule_in_which_two_differ_is_named(rule: str, value: object) -> None:
    other = replace(MANIFEST, **{rule: value})  # type: ignore[arg-type]
    ours, theirs = getattr(MANIFEST, rule), getattr(other, rule)
    difference = MANIFEST.difference(other, RULES)
    assert difference is not None
    assert difference[0] == rule
    if rule != "text_columns":  # shown as the file has them, as a list
        assert difference[1:] == (repr(ours), repr(theirs))
    assert MANIFEST.difference(other, [name for name in RULES if name != rule]) is None
    assert MANIFEST.difference(MANIFEST, RULES) is None


def test_the_same_weights_in_another_folder_are_the_same_model() -> None:
    moved = replace(MANIFEST, model="moved@3f61f8")
    assert MANIFEST.difference(moved, RULES) is None
    assert moved.fingerprint == fingerprint_of("e5-mini@3f61f8") == "3f61f8"
