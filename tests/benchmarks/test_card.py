"""Nothing hangs, a part that fails stops no other, and what was measured is kept."""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from benchmarks.__main__ import main
from benchmarks.card import SECONDS_BY_PART, Part, run_parts
from benchmarks.card_parts import PARTS


def shell(script: str, seconds: float = 60) -> Part:
    return Part(seconds, ["sh", "-c", script])


def rows_of(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = report[name]["rows"]
    return rows


def has_ended(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_each_row_is_in_the_file_while_the_run_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "new" / "card.json"
    parts = {
        "first": shell(
            f"""echo '{{"a": 1}}'; until grep -q '"a": 1' {file}; do sleep 0.02; done;
            echo '{{"b": 2}}'"""
        ),
        "second": shell(f"tr -d '\\n' <{file}"),
    }
    report = run_parts(parts, file)
    assert report["first"]["result"] == "complete"
    assert rows_of(report, "first") == [{"a": 1}, {"b": 2}]
    (meanwhile,) = rows_of(report, "second")
    assert meanwhile["first"] == report["first"]
    assert meanwhile["second"] == {"result": "running", "rows": []}
    assert json.loads(file.read_text()) == report
    assert [path.name for path in file.parent.iterdir()] == ["card.json"]


def test_a_part_that_fails_says_why_and_the_next_ones_are_run(tmp_path: Path) -> None:
    parts = {
        "fails": shell("""echo '{"a": 1}'; echo begun >&2; echo no card >&2; exit 3"""),
        "goes on": shell("""echo '{"b": 2}'"""),
    }
    report = run_parts(parts, tmp_path / "card.json")
    assert report["fails"]["result"] == "ended with 3: no card"
    assert report["fails"]["log"] == ["begun", "no card"]
    assert rows_of(report, "fails") == [{"a": 1}]
    assert report["goes on"]["result"] == "complete"


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_all_that_it_has_begun(tmp_path: Path) -> None:
    hangs = """sleep 600 & echo "{\\"child\\": $!}"; printf '{"half": '; wait"""
    report = run_parts({"hangs": shell(hangs, 2)}, tmp_path / "card.json")
    assert report["hangs"]["result"] == "ended after 2 s"
    (row,) = rows_of(report, "hangs")
    wait_until(lambda: has_ended(row["child"]))


def test_a_part_whose_server_outlives_it_ends(tmp_path: Path) -> None:
    leaves = """sleep 600 >&2 & echo "{\\"child\\": $!}" """
    report = run_parts({"leaves": shell(leaves)}, tmp_path / "card.json")
    assert report["leaves"]["result"] == "complete"
    (row,) = rows_of(report, "leaves")
    wait_until(lambda: has_ended(row["child"]))


def test_no_part_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    report = run_parts({"late": shell("echo '{}'")}, tmp_path / "card.json", seconds=5)
    assert report["late"]["result"] == "not begun: the 5 s are over"
    assert rows_of(report, "late") == []


def test_every_part_has_its_time() -> None:
    assert list(SECONDS_BY_PART) == list(PARTS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sections", "card,engine"], "--sections: received card; use engine, "),
        (["--sections", "card", "--workloads", "profile,x"], "--workloads: received x; use "),
    ],
)
def test_what_there_is_not_is_refused(
    options: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    with pytest.raises(SystemExit) as refusal:
        main()
    assert said in capsys.readouterr().err + str(refusal.value)


@pytest.mark.long  # eight processes, two of which start servers
def test_the_whole_run_is_rehearsed_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}/scripts:{root}")
    out = tmp_path / "card"
    command = ["benchmark", "--sections", "card", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert list(report) == list(PARTS)
    assert all(part["rows"] for part in report.values())
    assert {row["door"] for row in report["doors"]["rows"]} == {"gateway", "Cog"}
