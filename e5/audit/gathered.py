"""A sample as it was gathered from files or from an endpoint, and what is missing from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from e5.audit.sample import Sample, TextRole
from e5.audit.vector_values import read_vectors
from e5.errors import InputError


@dataclass(frozen=True)
class LeftOut:
    """A row that is not in a sample, because it has no text or no vector."""

    id: str
    reason: str


@dataclass(frozen=True)
class Gathered:
    """A sample, and what a caller should know beside the verdict on it.

    Attributes:
        sample: the rows that have a text and a vector.
        left_out: the other rows.
        remarks: sentences about where the vectors come from.
        task: of the queries, where that is known.
        is_steady: false if an endpoint gives one text different vectors.
    """

    sample: Sample
    left_out: Sequence[LeftOut] = ()
    remarks: Sequence[str] = field(default_factory=tuple)
    task: str | None = None
    is_steady: bool = True


@dataclass(frozen=True)
class GatheredRow:
    """A text with the vector that was found for it, in whatever form, or why there is none."""

    id: str
    text: str
    role: TextRole
    vector: Any
    problem: str = ""


def usable(rows: Sequence[GatheredRow]) -> tuple[Sample, list[LeftOut]]:
    """The sample that some rows make, and the rows that cannot be in it.

    Raises:
        InputError: if there are no rows, or no row can be in it; the field is `vectors`.
    """
    left_out = {i: row.problem for i, row in enumerate(rows) if row.problem}
    candidates = [i for i in range(len(rows)) if i not in left_out]
    vectors, problems = read_vectors([rows[i].vector for i in candidates])
    left_out |= {candidates[i]: problem for i, problem in problems.items()}
    kept = [row for i, row in enumerate(rows) if i not in left_out]
    if not kept:
        received = "no rows"
        if left_out:
            count = "1 row" if len(left_out) == 1 else f"{len(left_out)} rows"
            received = f"{count} without text or vector; of the first: {left_out[0]}"
        raise InputError("vectors", received, "name what holds texts, and their vectors")
    sample = Sample(
        [row.id for row in kept],
        [row.text for row in kept],
        vectors,
        [row.role for row in kept],
    )
    return sample, [LeftOut(rows[i].id, left_out[i]) for i in sorted(left_out)]
