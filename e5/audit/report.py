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
        """0 for right, 1 for wrong, 2 for unknown."""
        names = {part.split()[0] for part in self.verdict.split(" + ")} - set(KEPT)
        return {frozenset({RIGHT_LABEL}): 0, frozenset({UNKNOWN}): 2}.get(frozenset(names), 1)

    def to_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        names = ("verdict", "cosine", "cosine_right", "margin", "share", "rows", "advice")
        values = asdict(self)
        return {name: values[name] for name in names}
