"""Each part of the run on a borrowed card yields figures; here on a CPU, with small shapes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_streams import FakeStreams

from benchmarks.card_parts import PARTS, Run
from benchmarks.gpu_tests import run_gpu_tests
from benchmarks.kernel_profile import KINDS
from benchmarks.random_weights import random_mistral
from e5.mistral import Config, Mistral

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.rounds.MIN_SECONDS", 0.001)


def rows_of(part: str) -> list[dict[str, Any]]:
    return list(PARTS[part](Run("cpu", 5)))


def test_the_machine() -> None:
    (facts,) = rows_of("machine")
    assert facts["device"] == "cpu"
    assert facts["cores"] >= 1
    assert facts["versions"]["torch"] != "not installed"


@pytest.mark.slow
def test_a_profile_says_where_the_time_goes() -> None:
    rows = rows_of("profile")
    assert [(row["workload"], row["way"]) for row in rows] == [
        ("1 x 24 tokens", "plain"),
        ("32 queries of one task", "plain"),
    ]
    for row in rows:
        assert all(row[kind] > 0 for kind in KINDS if kind != "other")
        busy = sum(row[kind] for kind in KINDS)
        assert row["gaps"] == pytest.approx(max(0, row["ms"] - busy), abs=0.01)
        # 4 layers of 7 products and one of attention, each within other operations
        assert row["kernels"] > 4 * 8
        assert list(row["largest"].values()) == sorted(row["largest"].values(), reverse=True)


def test_products_are_compared_apart_and_joined() -> None:
    rows = rows_of("products")
    assert [(row["product"], row["rows"]) for row in rows] == [
        ("q, k, v", 8),
        ("q, k, v", 32),
        ("gate, up", 8),
        ("gate, up", 32),
    ]
    assert all(row["apart ms"] > 0 and row["joined ms"] > 0 for row in rows)
    assert all(row["joined is faster by"] > 0 for row in rows)


def test_ways_to_launch_are_compared() -> None:
    rows = rows_of("launches")
    assert len(rows) == 4
    assert all(row["ms"] > 0 and row["least cosine"] >= 0.9999 for row in rows)


@pytest.mark.slow
def test_layers_are_streamed_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.streaming.choose_streamed_layers", lambda *_: [0, 2])
    with FakeStreams().in_place_of_torchs():
        whole, parted = rows_of("streaming")
    assert whole["on the card"] == 4
    assert (parted["on the card"], parted["streamed"]) == (2, 2)
    assert parted["the same bits"] == "4 of 4 workloads"
    assert parted["copied GB/s"] > 0
    assert parted["beside all of it"] > 0
    assert whole["lone query ms"] > 0


@pytest.mark.slow
def test_a_bit_of_one_dimension_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []

    def others(config: Config, device: torch.device, dtype: torch.dtype, **_: object) -> Mistral:
        models.append(random_mistral(config, device, dtype))
        models[-1].norm.weight[5] = len(models)
        return models[-1]

    monkeypatch.setattr("benchmarks.streaming.random_mistral", others)
    _, parted = rows_of("streaming")
    assert parted["the same bits"] == "0 of 4 workloads"


@pytest.mark.slow
def test_tests_for_a_card_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n"
        "pytestmark = pytest.mark.gpu\n"
        "def test_right(): pass\n"
        "def test_wrong(): assert False\n"
    )
    done = run_gpu_tests(tmp_path)
    assert done.code == 1
    assert (done.counts["failed"], done.counts["passed"]) == (1, 1)
    (failure,) = done.failures
    assert failure.endswith("test_some.py::test_wrong")


@pytest.mark.slow
def test_engines_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.engine import CEILING, OURS, READING, UNMODIFIED  # transformers takes seconds

    ceilings = {"copy TB/s": 0.01}  # measuring them takes seconds
    monkeypatch.setattr("benchmarks.engine.measured_ceilings", lambda _: ceilings)
    rows = {row["system"]: row for row in rows_of("engines")}
    assert {CEILING, OURS, UNMODIFIED, READING} <= rows.keys()
    assert all(row["ms"] > 0 for row in rows.values())
    assert rows[UNMODIFIED]["least cosine to ours"] >= 0.999


@pytest.mark.slow
def test_a_door_is_put_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import many_clients  # imports transformers too

    gateway = {"gateway": many_clients.REQUESTS["gateway"]}  # the long test starts Cog too
    monkeypatch.setattr(many_clients, "REQUESTS", gateway)
    (row,) = rows_of("doors")
    assert (row["door"], row["clients"], row["failed"]) == ("gateway", 16, 0)
    assert row["texts/s"] > 0
    assert 0 < row["p50 ms"] <= row["p99 ms"] < math.inf
