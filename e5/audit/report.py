"""What an audit found, as data: `to_dict` is the object of `--json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


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
        verdict: names of hypotheses joined by ` + `; `right`, `another_model` or `unknown`.
        cosine: mean cosine of the rows with this verdict with what the verdict would give.
        cosine_right: mean cosine of the same rows with the right vectors.
        margin: by how much `cosine` exceeds that of the next hypothesis.
        share: the share of rows that have this verdict, from 0 to 1.
        shares: the share of rows of each verdict, the largest first.
        rows: the verdict on each row.
        alternatives: hypotheses that cannot be told from the verdict by this sample; of `unknown`,
            the nearest ones.
        storage: how the numbers are stored (`normalised`, `float16`, ...).
        ndcg: nDCG@10 of each text's neighbours by these vectors, judged by the right ones.
        advice: one sentence of what to do.
        exit_code: 0 for right, 1 for wrong, 2 if it cannot be told.
    """

    verdict: str
    cosine: float
    cosine_right: float
    margin: float
    share: float
    shares: Mapping[str, float]
    rows: Sequence[RowVerdict]
    alternatives: Sequence[str] = field(default_factory=tuple)
    storage: Sequence[str] = field(default_factory=tuple)
    ndcg: float = 1.0
    advice: str = ""
    exit_code: int = 2

    def to_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        raise NotImplementedError
