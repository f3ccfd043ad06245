"""A report is data: the object of --json, and an exit code."""

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


def test_it_is_json_with_these_keys() -> None:
    made = json.loads(json.dumps(report("no_eos").to_dict()))
    assert list(made) == [
        *("verdict", "cosine", "cosine_right", "margin", "share", "rows", "advice")
    ]
    assert made["rows"] == [{"id": "7", "verdict": "no_eos", "cosine": 1.0}]
