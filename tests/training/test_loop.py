"""Training learns, and one that was stopped ends bit for bit where another does."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from small_corpus import lessons, student

from training.lessons import Lessons
from training.loop import train

pytestmark = pytest.mark.slow


def test_training_stopped_and_gone_on_with_is_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.SAVE_EVERY", 3)
    monkeypatch.setattr("training.loop.LAST_PART", 2)
    monkeypatch.setattr("training.loop.WARM_UP", 2)
    whole = student(5)
    train(whole, lessons(), 4, tmp_path / "whole.pt")

    def lesson_until_3(step: int, kinds: Mapping[str, float]) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return Lessons.lesson(lessons(), step, kinds)

    broken = student(5)
    with monkeypatch.context() as patch:
        patch.setattr(lessons(), "lesson", lesson_until_3)
        with pytest.raises(KeyboardInterrupt):
            train(broken, lessons(), 4, tmp_path / "state.pt")
    resumed = student(5)
    train(resumed, lessons(), 4, tmp_path / "state.pt")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_training_brings_vectors_to_their_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        only = next(it for it in map(lessons().lesson, range(99)) if not it.answers)
        patch.setattr(lessons(), "lesson", lambda *_: only)
        patch.setattr("training.loop.WARM_UP", 2)
        curve = train(student(3), lessons(), 21, tmp_path / "state.pt")
    assert curve[-1]["cosine"] < 0.9 * curve[0]["cosine"]
