"""The limits that callers meet are those that the documentation has."""

from pathlib import Path

from e5.gateway.limits import GatewayLimits

DOCS = Path(__file__).parents[2] / "docs" / "gateway.md"


def test_the_documented_limits_are_the_default_ones() -> None:
    limits, docs = GatewayLimits(), DOCS.read_text(encoding="utf-8")
    for line in (
        f"| body | {limits.body_bytes // 2**20} MB |",
        f"| requests at a time | {limits.in_flight}, then 429 |",
        f"| bodies held at a time | {limits.held_bytes // 2**20} MB, then 429 |",
        f"| predictions kept for Replicate | {limits.kept_prediction_bytes // 2**20} MB |",
        f"| seconds of a request | {limits.deadline_seconds:g} |",
    ):
        assert line in docs
