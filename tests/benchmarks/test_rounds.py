"""Each round measures every system, ratios are of one round, and a busy machine gives no figure."""

import doctest
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import load_generator, other_processes, rounds
from benchmarks.other_processes import BUSY, OtherProcesses, busy_machine_message
from benchmarks.rounds import Times, side_by_side
from benchmarks.simulated import HIDDEN_SIZE, embedder_of

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SPIN = [sys.executable, "-c", "while True: pass"]


@pytest.mark.slow
def test_each_round_has_every_system_and_starts_with_another() -> None:
    called: list[str] = []

    def system(name: str) -> None:
        called.append(name)
        time.sleep(0.06)  # long enough to be called once a round

    runs = {name: lambda name=name: system(name) for name in "abc"}
    times = side_by_side(runs, CPU, rounds=4)
    measured = called[2 * len(runs) :]  # two calls of each warm up
    orders = ["".join(measured[i : i + 3]) for i in range(0, len(measured), 3)]
    assert orders == ["abc", "bca", "cab", "abc"]
    assert all(len(each.seconds) == 4 and each.peak > 0 for each in times.values())


def test_a_ratio_is_that_of_the_same_round() -> None:
    # A machine that halves its speed after the second round: the ratio stays.
    ours, theirs = Times([1.0, 1.0, 2.0, 2.0, 2.0]), Times([3.0, 3.0, 6.0, 6.0, 6.0])
    assert ours.ratio(theirs) == 3
    assert ours.median == 2


def test_a_large_spread_is_marked() -> None:
    steady, noisy = Times([1.0, 1.05, 1.1]), Times([1.0, 1.05, 1.4])
    assert steady.columns() == {"ms": 1050.0, "least": 1000.0, "greatest": 1100.0, "spread": "10%"}
    assert noisy.columns()["spread"] == "38% !"


@pytest.mark.slow
def test_a_busy_process_that_is_no_child_is_counted() -> None:
    code = (
        "import time; from benchmarks.other_processes import OtherProcesses\n"
        "others = OtherProcesses(); time.sleep(2); print(others.cores())"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/scripts:{ROOT}"}
    spinning = subprocess.Popen(SPIN)
    try:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        spinning.kill()
        spinning.wait()
    assert float(done.stdout) > BUSY


def test_child_processes_are_not_counted() -> None:
    spinning = subprocess.Popen(SPIN)
    try:
        others = OtherProcesses()
        ours = {key for key in others._seconds if key[0] == spinning.pid}
    finally:
        spinning.kill()
        spinning.wait()
    assert not ours
    assert busy_machine_message(0.02) == ""


@pytest.mark.slow
def test_no_figure_is_written_beside_a_busy_process(tmp_path: Path) -> None:
    out = tmp_path / "figures"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/scripts:{ROOT}"}
    spinning = subprocess.Popen(SPIN)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--sections", "fidelity", "--out", str(out)],
            env=environment,
            capture_output=True,
            text=True,
        )
    finally:
        spinning.kill()
        spinning.wait()
    assert done.returncode == 1
    assert "no figure is kept" in done.stderr
    assert not list(tmp_path.iterdir())


def test_examples_in_docstrings_are_correct() -> None:
    for module in (load_generator, other_processes, rounds):
        assert doctest.testmod(module, raise_on_error=True).failed == 0


def test_no_two_queries_of_the_load_generator_are_equal() -> None:
    queries = [load_generator.query(number) for number in range(500)]
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
