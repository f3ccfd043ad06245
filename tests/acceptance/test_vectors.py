"""The step that asks the unmodified model finds what our engine alone cannot notice."""

from pathlib import Path

import pytest
import torch

from acceptance.candidate import Candidate, Workload
from acceptance.lines import FAILED, PASSED
from acceptance.vectors import unmodified

MINI = Path(__file__).resolve().parents[2] / "weights/e5-mini"
CANDIDATE = Candidate(MINI, "cpu", Workload(beside_float32=2, sentences=(3,)))
CANDIDATE.__dict__["dtypes"] = ["bfloat16"]  # float16 takes a CPU long


def test_our_engine_agrees_with_the_unmodified_model_alone_and_in_batches() -> None:
    lines = unmodified(CANDIDATE)
    assert [line.result for line in lines] == [PASSED] * 2
    assert [line.what.partition(":")[0] for line in lines] == [
        "bfloat16, in batches",
        "bfloat16, alone",
    ]


def test_a_mistake_that_is_the_same_in_every_dtype_and_batch_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unrotated(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return x

    monkeypatch.setattr("e5.forward._rotate", unrotated)  # the self-check passes
    assert [line.result for line in unmodified(CANDIDATE)] == [FAILED] * 2
