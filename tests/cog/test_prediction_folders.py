"""Folders of ended predictions are removed, others stay, and an unusable folder is refused."""

import contextvars
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import wait_until

from e5.cog.prediction_folders import ID_VARIABLE, PredictionFolders, prediction_id
from e5.errors import FileError

CURRENT: contextvars.ContextVar[object] = contextvars.ContextVar(ID_VARIABLE)


def quick(root: Path) -> PredictionFolders:
    return PredictionFolders(root, empty_seconds=0.05, numbers_per_second=1000, file_seconds=0.5)


def made(root: Path, name: str) -> Path:
    """The folders that Cog makes before a prediction."""
    for part in ("inputs", "outputs"):
        (root / name / part).mkdir(parents=True)
    return root / name


def end(folders: PredictionFolders, name: object, *, num_floats: int = 0) -> None:
    """End a prediction of that id, as Cog runs it."""

    def predict() -> None:
        CURRENT.set(name)
        folders.remove_later(num_floats)

    contextvars.copy_context().run(predict)


@pytest.mark.slow
def test_the_folders_of_an_ended_prediction_are_removed_and_others_stay(tmp_path: Path) -> None:
    folders = quick(tmp_path)
    mine, other = made(tmp_path, "pred_1"), made(tmp_path, "somebody's")
    answer = mine / "outputs" / "answer.json"
    answer.write_text("{}")
    changed = answer.stat().st_mtime
    end(folders, "pred_1")
    wait_until(lambda: not answer.exists())
    assert time.time() - changed >= 0.5, "until then it may not have been sent"
    wait_until(lambda: not mine.exists())
    assert other.exists()


def test_a_folder_of_which_a_part_is_missing_or_new_is_removed_too(tmp_path: Path) -> None:
    folders = quick(tmp_path)
    without, more = made(tmp_path, "pred_1"), made(tmp_path, "pred_2")
    (without / "inputs").rmdir()
    (more / "others").mkdir()
    for name in ("pred_1", "pred_2", "pred_that_never_was"):
        end(folders, name)
    wait_until(lambda: not without.exists() and not more.exists())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_folders_are_kept_until_cog_has_written_a_large_answer(tmp_path: Path) -> None:
    folders = quick(tmp_path)
    large, small = made(tmp_path, "pred_large"), made(tmp_path, "pred_small")
    started = time.monotonic()
    end(folders, "pred_large", num_floats=500)
    end(folders, "pred_small")
    wait_until(lambda: not small.exists())
    wait_until(lambda: not large.exists())
    assert time.monotonic() - started >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a/b", "..", ".", "", 7, None, "x" * 300])
def test_an_id_never_leads_out_of_the_folder(name: object, tmp_path: Path) -> None:
    outside = made(tmp_path, "outside")
    folders = quick(tmp_path / "in")
    end(folders, name)
    assert folders._ended == []
    ordinary = made(tmp_path / "in", "ordinary")
    end(folders, "ordinary")
    wait_until(lambda: not ordinary.exists())
    assert outside.exists()


def test_hundreds_of_predictions_leave_nothing(tmp_path: Path) -> None:
    folders = quick(tmp_path)
    for number in range(300):
        made(tmp_path, f"pred_{number}")
        end(folders, f"pred_{number}")
    wait_until(lambda: not any(tmp_path.iterdir()))


def test_without_cog_a_prediction_has_no_id() -> None:
    assert contextvars.Context().run(prediction_id) is None


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = quick(tmp_path / "file" / "predictions")
    with pytest.raises(FileError, match=r"predictions: cannot be written .*; make it writable"):
        folders.check()
    (tmp_path / "file").unlink()
    folders.check()
    assert os.listdir(tmp_path / "file" / "predictions") == []


@pytest.mark.parametrize(
    ("num_bytes", "free", "has_room"),
    [(6 * 2**20, 0, True), (6 * 2**20 + 1, 0, False), (10**7, 10**7, True), (10**7, 9**7, False)],
)
def test_only_a_large_answer_needs_room_for_a_file(
    num_bytes: int, free: int, has_room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    folders = PredictionFolders(tmp_path)
    if has_room:
        folders.check_room(num_bytes)
    else:
        with pytest.raises(FileError, match=f"has {free} bytes free, and this answer goes throu"):
            folders.check_room(num_bytes)
