"""A file is written whole or not at all; a location that cannot be reached is one sentence."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_tools import ROOT
from pyarrow import fs

from e5.corpora.filesystem import join_location, only_writer, open_filesystem, write_whole
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.errors import InputError


@pytest.mark.parametrize("location", ["out\udcff", "abfs://no account", "nothing://here"])
def test_a_location_that_cannot_be_reached_is_one_sentence(location: str) -> None:
    with pytest.raises(InputError, match=r"received a location that cannot be reached") as caught:
        ShardFolder(location, Recipe())
    assert "\n" not in str(caught.value)


def test_the_options_of_a_uri_stay_at_its_end() -> None:
    uri = "s3://bucket/out?region=eu-west-1"
    assert join_location(uri, "a") == "s3://bucket/out/a?region=eu-west-1"
    assert join_location("out", "a") == "out/a"
    assert join_location("what?", "a") == "what?/a"


def test_a_reader_sees_the_old_file_or_the_new_one(
    tmp_path: Path,
) -> None:
    filesystem, folder = open_filesystem(str(tmp_path))
    for content in (b"old", b"new" * 1000):
        write_whole(filesystem, f"{folder}/deeper/file", content)
        assert (tmp_path / "deeper" / "file").read_bytes() == content
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["file"]


def test_a_file_of_another_filesystem_is_written_whole_too() -> None:
    filesystem, folder = open_filesystem("memory://written")
    for content in (b"old", b"new"):
        write_whole(filesystem, f"{folder}/file", content)
        with filesystem.open_input_stream(f"{folder}/file") as file:
            assert file.read() == content
    names = [info.base_name for info in filesystem.get_file_info(fs.FileSelector(folder))]
    assert names == ["file"]


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
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # the space is given back


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_network_share_that_cannot_flush_a_folder_is_written_all_the_same(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def refuse(opened: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(reason, "refused")
        flush(opened)

    monkeypatch.setattr(os, "fsync", refuse)
    filesystem, folder = open_filesystem(str(tmp_path))
    write_whole(filesystem, f"{folder}/file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


class TestOneWriter:
    def test_a_second_one_is_refused_until_the_first_has_ended(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "out")
        code = (
            "import sys\nfrom e5.corpora.filesystem import only_writer\n"
            f"with only_writer({folder!r}):\n    print('mine', flush=True)\n    sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"mine\n"
        refused = pytest.raises(InputError, match=r"that another run is writing to; wait")
        with refused, only_writer(folder):
            raise AssertionError
        other.kill()  # however it ends
        other.communicate()
        with only_writer(folder):
            pass

    def test_where_there_are_no_locks_nobody_is_refused(self) -> None:
        with only_writer("memory://nowhere/out"), only_writer("memory://nowhere/out"):
            pass

    def test_a_folder_that_cannot_be_written_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(OSError, match=r"/file/out: cannot be written .*; name another folder\."),
            only_writer(str(tmp_path / "file" / "out")),
        ):
            raise AssertionError
