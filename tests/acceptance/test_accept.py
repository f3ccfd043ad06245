"""One command from a clone to a verdict; it goes on after a failure and an interruption."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acceptance.__main__ import STEPS, _run
from acceptance.candidate import Candidate
from acceptance.lines import FAILED, NOT_RUN, PASSED, at_least, at_most, near, not_run, passes
from acceptance.report import Report

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "weights/e5-mini"
FACTS = {"machine": "NVIDIA A40", "weights": "e5", "commit": "abc"}


def accept(out: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "acceptance"),
            *("--weights", str(MINI), "--device", "cpu", "--out", str(out), "--quick"),
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}/scripts:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.long  # twelve steps, each in a process that imports everything
def test_the_built_in_checkpoint_passes_and_nothing_is_done_twice(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the speed step's peer is not installed")
    first = accept(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    (data,) = tmp_path.glob("*.json")
    steps = json.loads(data.read_text())["steps"]
    assert list(steps) == list(STEPS)
    results = [line["result"] for step in steps.values() for line in step["lines"]]
    assert results.count(PASSED) >= 10
    not_run_here = {name for name in steps if steps[name]["lines"][-1]["result"] == NOT_RUN}
    assert not_run_here == {"machine", "tests", "image"}
    page = data.with_suffix(".md").read_text()
    assert "**Verdict: passed.**" in page
    assert "What to send us" in page
    assert str(ROOT) not in page + data.read_text()
    again = accept(tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("has passed before") == len(STEPS)


@pytest.mark.slow
def test_a_step_that_dies_fails_alone_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/scripts:{ROOT}")
    weights = tmp_path / "broken"
    shutil.copytree(MINI, weights)
    (weights / "config.json").write_text("{}")
    lines, log = _run("loading", Candidate(weights, "cpu"))
    assert [line.result for line in lines] == [FAILED]
    assert "config.json" in lines[0].figure
    assert "WeightsError" in log
    report = Report(tmp_path / "reports", FACTS)
    report.add("loading", lines, seconds=1, log=log)
    report.add("machine", [passes("torch", "2.11", True)], seconds=1, log="")
    assert not report.finish()
    page = report.path.with_suffix(".md").read_text()
    assert "**Verdict: failed.** 1 lines passed, 1 failed." in page
    assert "The end of its log" in page


def test_what_passed_before_an_interruption_is_kept(tmp_path: Path) -> None:
    report = Report(tmp_path, FACTS)
    report.add("machine", [passes("torch", "2.11", True)], seconds=1, log="")
    report.add("speed", [passes("ratio", "0.9", False)], seconds=1, log="slow")
    assert "unfinished" in report.path.with_suffix(".md").read_text()
    again = Report(tmp_path, FACTS)
    assert again.path == report.path
    assert again.passed("machine")
    assert not again.passed("speed")
    assert not again.passed("truth")
    assert not Report(tmp_path, FACTS | {"commit": "def"}).passed("machine")


def test_an_unfinished_report_of_yesterday_is_taken_up(tmp_path: Path) -> None:
    report = Report(tmp_path, FACTS)
    report.add("machine", [passes("torch", "2.11", True)], seconds=1, log="")
    yesterday = time.strftime("%Y-%m-%d", time.localtime(time.time() - 86400))
    old = report.path.rename(tmp_path / f"nvidia-a40-{yesterday}.json")
    assert Report(tmp_path, FACTS).path == old
    finished = Report(tmp_path, FACTS)
    finished.finish()
    assert Report(tmp_path, FACTS).path != old


def test_a_line_is_within_its_bound_or_fails() -> None:
    assert at_least("x", 1.0, 1.0).result == PASSED
    assert at_most("x", 1.1, 1.0).result == FAILED
    assert near("x", 0.8599, 0.855, 0.005).result == PASSED
    assert near("x", 0.8601, 0.855, 0.005).result == FAILED
    nan = float("nan")
    lines = [at_least("x", nan, 0), at_most("x", nan, 9), near("x", nan, 1, 9)]
    assert {line.result for line in lines} == {FAILED}
    assert not_run("x", "no card").result == NOT_RUN
