"""What an audit found, as data: `to_dict` is the object of `--json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

RIGHT_LABEL, UNKNOWN, OTHER_MODEL = "right", "unknown", "another_model"
# Names that say how many of the numbers are kept, and nothing about how they were computed.
KEPT = ("dimensions", "binary")


@dataclass(frozen=True)
class RowVerdict:
    """The verdict on one row, and the cosine of its vector with what the verdict would give."""

    id: str
    verdict: str
    cosine: float


@dataclass(frozen=True)
class AuditReport:
    """The verdict on a sample.

    Attributes:
        verdict: names of hypotheses joined by ` + `, some with a value (`truncated 512`); or
            `right`, `another_model`, `unknown`. `dimensions` and `binary` may stand beside `right`.
        cosine: the mean cosine of the rows that have this verdict with what it would give.
        cosine_right: the mean cosine of the same rows with the right vectors.
        margin: by how much `cosine` exceeds that of the next hypothesis.
        share: the share of rows that have this verdict, from 0 to 1.
        shares: the share of rows of each verdict, the largest first.
        rows: the verdict on each row, in the sample's order.
        alternatives: hypotheses that give the same vectors on this sample; of `unknown`, those that
            come nearest.
        storage: how the numbers are stored: `normalised`, `float16`, `dimensions 64`, ...
        ndcg: the mean nDCG@10 of each text's neighbours by these vectors, judged by the right ones;
            None where the vectors cannot be compared.
        advice: one sentence of what to do.
    """

    verdict: str
    cosine: float
    cosine_right: float
    margin: float
    share: float
    shares: Mapping[str, float]
    rows: Sequence[RowVerdict]
    alternatives: Sequence[str]
    storage: Sequence[str]
    ndcg: float | None
    advice: str

    @property
    def exit_code(self) -> int:
        """0 for right, 1 for wrong, 2 if it cannot be told."""
        names = {part.split()[0] for part in self.verdict.split(" + ")} - set(KEPT)
        return {frozenset({RIGHT_LABEL}): 0, frozenset({UNKNOWN}): 2}.get(frozenset(names), 1)

    @property
    def summary(self) -> str:
        """The shares in words.

        Example:
            >>> rows = [RowVerdict("0", "no_eos", 1.0)]
            >>> shares = {"no_eos": 0.97, "right": 0.03}
            >>> AuditReport("no_eos", 1, 0.8, 0.1, 0.97, shares, rows, [], [], 1, "").summary
            '97 % of rows: no_eos; 3 % of rows: right'
        """
        return "; ".join(
            f"{_percent(share)} of rows: {name}" for name, share in self.shares.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        return asdict(self) | {"exit_code": self.exit_code}


def _percent(share: float) -> str:
    """A share in percent.

    Example:
        >>> _percent(255 / 256), _percent(1.0), _percent(0.031)
        ('99.61 %', '100 %', '3.1 %')
    """
    return f"{100 * share:.4g} %"
