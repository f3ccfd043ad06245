"""The steps about the machine: which card will do, and weights that are made if there are none."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_cards import FakeCards

from acceptance import machine
from acceptance.candidate import Candidate, Workload
from acceptance.lines import FAILED, FIGURE, NOT_RUN, PASSED
from acceptance.vectors import fidelity, loading, unmodified
from benchmarks.random_weights import SMALL

MINI = Path(__file__).resolve().parents[2] / "weights/e5-mini"


@pytest.mark.parametrize(
    ("capability", "engine", "result", "figure"),
    [
        ((8, 6), "packed", PASSED, "8.6"),
        ((12, 0), "packed", PASSED, "12"),
        ((7, 5), "packed", PASSED, "7.5"),
        (
            (6, 1),
            "packed",
            FAILED,
            "6.1, too little for E5_ENGINE=packed: set E5_ENGINE=transformers",
        ),
        ((6, 1), "transformers", FIGURE, "6.1"),
    ],
)
def test_a_card_that_is_too_old_for_our_engine_may_run_the_unmodified_model(
    capability: tuple[int, int],
    engine: str,
    result: str,
    figure: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCards(monkeypatch, [16], capability=capability)
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_60", "sm_75", "sm_86", "sm_120"])
    properties = SimpleNamespace(total_memory=16 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: properties)
    lines = machine.machine(Candidate(MINI, "cuda", engine=engine))
    (line,) = [line for line in lines if line.what == "compute capability"]
    assert (line.result, line.figure) == (result, figure)
    assert lines[-1].result == PASSED


@pytest.mark.parametrize(("capability", "number"), [((7, 5), 1), ((8, 0), 2)])
def test_an_old_card_is_not_asked_for_bfloat16(
    capability: tuple[int, int], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCards(monkeypatch, [16], capability=capability)
    assert Candidate(MINI, "cuda").dtypes == ["float16", "bfloat16"][:number]


def test_what_is_about_our_own_engine_is_not_run_with_the_other() -> None:
    candidate = Candidate(MINI, "cpu", engine="transformers")
    for step in (machine.tests, unmodified):
        assert [line.result for line in step(candidate)] == [NOT_RUN]
    assert candidate.facts()["engine"] == "transformers"
    assert "engine" not in Candidate(MINI, "cpu").facts()


@pytest.mark.slow
def test_random_weights_are_made_once_and_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "random"
    monkeypatch.setattr(machine, "RANDOM", folder)
    monkeypatch.setattr(machine, "SEVEN_BILLION", SMALL)
    candidate = Candidate(folder, "cpu", Workload(beside_float32=2))
    candidate.__dict__["dtypes"] = ["bfloat16"]
    for _ in range(2):
        size, checksums = machine.weights(candidate)
        assert checksums.result == PASSED
        assert float(size.figure.split()[0]) > 0.004
        written = [file.stat().st_mtime_ns for file in folder.iterdir()]
    assert written == [file.stat().st_mtime_ns for file in folder.iterdir()]
    model, limits, *_ = loading(candidate)
    assert model.figure.startswith("random@")
    assert limits.figure.startswith("4096 tokens a text")
    assert [line.result for line in fidelity(candidate)] == [PASSED]
