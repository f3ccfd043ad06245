"""A file is written whole or not at all, and places out of reach are said in a sentence."""

import os
import re
from pathlib import Path

import pytest

from e5.corpora.shards import Recipe, ShardFolder
from e5.corpora.storage import ASIDE, open_filesystem, write_whole
from e5.errors import InputError


@pytest.mark.parametrize("place", ["out\udcff", "abfs://no account", "nothing://here"])
def test_a_place_out_of_reach_is_said_in_a_sentence(place: str) -> None:
    with pytest.raises(InputError, match=r"received a place that cannot be reached") as caught:
        ShardFolder(place, Recipe())
    assert "\n" not in str(caught.value)


def test_a_reader_sees_the_old_file_or_the_new_one(
    tmp_path: Path,
) -> None:
    filesystem, folder = open_filesystem(str(tmp_path))
    for content in (b"old", b"new" * 1000):
        write_whole(filesystem, f"{folder}/deeper/file", content)
        assert (tmp_path / "deeper" / "file").read_bytes() == content
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["file"]


def test_a_write_that_breaks_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem, folder = open_filesystem(str(tmp_path))
    write_whole(filesystem, f"{folder}/file", b"old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"/file: cannot be written \(No space"):
        write_whole(filesystem, f"{folder}/file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    (aside,) = (path.name for path in tmp_path.iterdir() if path.name != "file")
    assert re.fullmatch(ASIDE, aside), "which the next run removes"
