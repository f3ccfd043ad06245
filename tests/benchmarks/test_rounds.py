"""Systems take turns; ratios are those of one round; and a busy machine gives no figure."""

import doctest
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import load, neighbours, rounds
from benchmarks.neighbours import BUSY, Neighbours, what_is_wrong
from benchmarks.rounds import Times, side_by_side
from benchmarks.simulated import HIDDEN_SIZE, embedder_of

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SPIN = [sys.executable, "-c", "while True: pass"]


def test_each_round_has_every_system_and_begins_with_another() -> None:
    called: list[str] = []

    def system(name: str) -> None:
        called.append(name)
        time.sleep(0.06)  # long enough to be called once a round

    runs = {name: lambda name=name: system(name) for name in "abc"}
    times = side_by_side(runs, CPU, rounds=4)
    measured = called[2 * len(runs) :]  # two calls of each warm up
    turns = ["".join(measured[i : i + 3]) for i in range(0, len(measured), 3)]
    assert turns == ["abc", "bca", "cab", "abc"]
    assert all(len(one.seconds) == 4 and one.peak > 0 for one in times.values())


def test_a_ratio_is_that_of_the_same_round() -> None:
    # A machine that halves its speed after the second round: the ratio stays.
    ours, theirs = Times([1.0, 1.0, 2.0, 2.0, 2.0]), Times([3.0, 3.0, 6.0, 6.0, 6.0])
    assert ours.ratio(theirs) == 3
    assert ours.median == 2


def test_rounds_that_lie_far_apart_are_marked() -> None:
    calm, wild = Times([1.0, 1.05, 1.1]), Times([1.0, 1.05, 1.4])
    assert calm.columns() == {"ms": 1050.0, "least": 1000.0, "greatest": 1100.0, "spread": "10%"}
    assert wild.columns()["spread"] == "38% !"


def test_a_busy_process_that_is_not_ours_is_seen() -> None:
    code = (
        "import time; from benchmarks.neighbours import Neighbours\n"
        "seen = Neighbours(); time.sleep(2); print(seen.cores())"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/scripts:{ROOT}"}
    spinning = subprocess.Popen(SPIN)
    try:
        command = [sys.executable, "-c", code]
        told = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        spinning.kill()
        spinning.wait()
    assert float(told.stdout) > BUSY


def test_our_own_children_are_no_neighbours() -> None:
    spinning = subprocess.Popen(SPIN)
    try:
        seen = Neighbours()
        ours = {key for key in seen._seconds if key[0] == spinning.pid}
    finally:
        spinning.kill()
        spinning.wait()
    assert not ours
    assert what_is_wrong(0.02) == ""


@pytest.mark.slow
def test_no_figure_is_written_beside_a_busy_process(tmp_path: Path) -> None:
    out = tmp_path / "figures"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/scripts:{ROOT}"}
    spinning = subprocess.Popen(SPIN)
    try:
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--sections", "fidelity", "--out", str(out)],
            env=environment,
            capture_output=True,
            text=True,
        )
    finally:
        spinning.kill()
        spinning.wait()
    assert told.returncode == 1
    assert "no figure is kept" in told.stderr
    assert not list(tmp_path.iterdir())


def test_examples_in_docstrings_give_what_they_say() -> None:
    for module in (load, neighbours, rounds):
        assert doctest.testmod(module, raise_on_error=True).failed == 0


def test_no_two_queries_of_a_load_are_alike() -> None:
    queries = [load.query(number) for number in range(500)]
    assert len(set(queries)) == 500
    assert all(a != b for a, b in pairwise(queries))


def test_a_simulated_card_gives_vectors_of_the_7b_model_without_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("E5_WEIGHTS", str(ROOT / "weights/e5-mini"))
    monkeypatch.setenv("E5_DEVICE", "cpu")
    embedder = embedder_of("h100")
    assert embedder.name == "e5-mini@simulated"
    texts = [f"snow {number}" for number in range(300)]
    assert embedder.encode_query(texts).shape == (300, HIDDEN_SIZE)
