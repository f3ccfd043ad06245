"""A report is data: the object of --json, a summary in words, an exit code."""

import json
from typing import Any

import pytest

from e5.audit import AuditReport, RowVerdict


def report(verdict: str, **changes: Any) -> AuditReport:
    values: dict[str, Any] = {
        "cosine": 1.0,
        "cosine_right": 0.8,
        "margin": 0.1,
        "share": 0.03,
        "shares": {"right": 0.97, verdict: 0.03},
        "rows": [RowVerdict("7", verdict, 1.0)],
        "alternatives": [],
        "storage": ["float16"],
        "ndcg": 0.9,
        "advice": "Nothing need be done.",
    }
    return AuditReport(verdict, **values | changes)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        ("right", 0),
        ("right + dimensions 64", 0),
        ("right + dimensions 64 + binary", 0),
        ("no_eos", 1),
        ("no_eos + truncated 512 + dimensions 1024", 1),
        ("shuffled", 1),
        ("another_model", 1),
        ("unknown", 2),
    ],
)
def test_the_exit_code_follows_from_the_verdict(verdict: str, code: int) -> None:
    assert report(verdict).exit_code == code


def test_shares_are_told_in_words() -> None:
    told = report("truncated 512").summary
    assert told == "97 % of rows: right; 3 % of rows: truncated 512"


def test_a_few_rows_of_many_are_not_rounded_away() -> None:
    shares = {"right": 0.9996, "no_eos": 0.0004}
    assert report("no_eos", shares=shares).summary == (
        "99.96 % of rows: right; 0.04 % of rows: no_eos"
    )


def test_it_is_json() -> None:
    made = json.loads(json.dumps(report("no_eos").to_dict()))
    assert list(made)[:5] == ["verdict", "cosine", "cosine_right", "margin", "share"]
    assert made["rows"] == [{"id": "7", "verdict": "no_eos", "cosine": 1.0}]
    assert made["exit_code"] == 1
