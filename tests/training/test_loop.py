"""The training learns, and one that was stopped ends with the same weights as one that was not."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from small_corpus import batches, student

from training.batches import BatchSampler
from training.loop import Schedule, train

# The training is run when the built-in checkpoint is made anew.
pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_a_training_that_was_stopped_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(warm_up=2, final_part=2, save_every=3)
    whole = student(5)
    train(whole, batches(), 4, tmp_path / "whole.pt", schedule)

    def batch_until_3(step: int, kind_shares: Mapping[str, float]) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return BatchSampler.batch(batches(), step, kind_shares)

    stopped = student(5)
    with monkeypatch.context() as patch:
        patch.setattr(batches(), "batch", batch_until_3)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, batches(), 4, tmp_path / "state.pt", schedule)
    resumed = student(5)
    train(resumed, batches(), 4, tmp_path / "state.pt", schedule)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_training_brings_vectors_to_their_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(batch for batch in map(batches().batch, range(99)) if not batch.answers)
    monkeypatch.setattr(batches(), "batch", lambda *_: first)
    curve = train(student(3), batches(), 21, tmp_path / "state.pt", Schedule(warm_up=2))
    assert curve[-1]["cosine"] < 0.9 * curve[0]["cosine"]
