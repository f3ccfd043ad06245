"""Ended predictions leave nothing, running ones keep theirs, and health says what is wrong."""

import contextvars
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e5.cog import prediction_folders as module
from e5.cog.prediction_folders import VARIABLE, Predictions, prediction_id
from e5.errors import SettingsError

CURRENT: contextvars.ContextVar[object] = contextvars.ContextVar(VARIABLE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMPTY_SECONDS", 0.05)
    monkeypatch.setattr(module, "FILE_SECONDS", 0.5)


def made(folder: Path, name: str) -> Path:
    """What Cog makes before a prediction."""
    for part in ("inputs", "outputs"):
        (folder / name / part).mkdir(parents=True)
    return folder / name


def ran(predictions: Predictions, name: object, *, numbers: int = 0) -> None:
    def one() -> None:
        CURRENT.set(name)
        with predictions.one() as prediction:
            assert predictions.running == 1
            prediction.numbers = numbers

    contextvars.copy_context().run(one)
    assert predictions.running == 0


def soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.usefixtures("quick")
def test_what_an_ended_one_left_goes_and_others_stay(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    mine, other = made(tmp_path, "pred_1"), made(tmp_path, "somebody's")
    answer = mine / "outputs" / "answer.json"
    answer.write_text("{}")
    ran(predictions, "pred_1")
    time.sleep(0.2)
    assert answer.exists()  # it may not have been sent
    assert soon(lambda: not mine.exists())
    assert other.exists()


@pytest.mark.usefixtures("quick")
def test_a_large_answer_has_time_until_cog_writes_it(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    large, small = made(tmp_path, "pred_large"), made(tmp_path, "pred_small")
    ran(predictions, "pred_large", numbers=int(5 * module.NUMBERS_A_SECOND))
    ran(predictions, "pred_small")
    assert soon(lambda: not small.exists())
    assert (large / "outputs").exists()
    assert soon(lambda: not large.exists())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a/b", "..", ".", "", 7, None, "x" * 300])
def test_an_id_never_leads_out_of_the_folder(name: object, tmp_path: Path) -> None:
    outside = made(tmp_path, "outside")
    (tmp_path / "in").mkdir()
    predictions = Predictions(tmp_path / "in")
    ran(predictions, name)
    ran(predictions, "ordinary")
    assert soon(lambda: not predictions._ended)
    time.sleep(0.1)
    assert outside.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_thousands_leave_nothing(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    for number in range(2000):
        made(tmp_path, f"pred_{number}")
        ran(predictions, f"pred_{number}")
    assert soon(lambda: not any(tmp_path.iterdir()))


def test_without_cog_nothing_is_known() -> None:
    assert contextvars.Context().run(prediction_id) is None


def test_a_folder_that_cannot_be_made_is_refused_and_ill(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    predictions = Predictions(tmp_path / "file" / "predictions")
    with pytest.raises(SettingsError, match=r"predictions: cannot be written .*; make it writable"):
        predictions.check()
    assert not predictions.can_be_made()
    (tmp_path / "file").unlink()
    assert predictions.can_be_made()
    assert os.listdir(tmp_path / "file" / "predictions") == []


def test_the_number_of_running_ones_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "5123")
    predictions = Predictions(tmp_path / "predictions")
    assert predictions.can_be_made()
    with predictions.one(), predictions.one():
        predictions.tell()
    assert (tmp_path / "e5-running-5123").read_text() == "2"
