"""A sample as it was gathered from files or from an endpoint, and what is missing from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from e5.audit.report import AuditReport
from e5.audit.sample import Sample, TextRole
from e5.audit.vector_source import VectorSource
from e5.audit.vector_values import read_vectors
from e5.audit.verdict import audit
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK

UNSTEADY_ADVICE = "Send one text in a request, or mend what lets a text's vector depend on others."


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
        batched: the vectors that an endpoint gives the same texts in one request, if they differ
            from those of texts that are sent alone.
    """

    sample: Sample
    left_out: Sequence[LeftOut] = ()
    remarks: Sequence[str] = ()
    task: str | None = None
    batched: Sample | None = None


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
        InputError: if there are no rows, or no row can be in it; the field is
            `vectors`, or `texts` if there are none.
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
        raise InputError(
            "vectors" if candidates else "texts",
            received,
            "name what holds texts, and their vectors",
        )
    sample = Sample(
        [row.id for row in kept],
        [row.text for row in kept],
        vectors,
        [row.role for row in kept],
    )
    return sample, [LeftOut(rows[i].id, left_out[i]) for i in sorted(left_out)]


def judge(
    gathered: Gathered, source: VectorSource, *, task: str | None = None, progress: bool = True
) -> AuditReport:
    """The verdict on what was gathered; of an endpoint's vectors that differ, the worse one.

    `task` is that of the queries, "" for queries without a prompt; None is what is known of it, or
    web search. The other arguments and the errors are those of `audit`.
    """
    if task is None:
        task = DEFAULT_TASK if gathered.task is None else gathered.task
    report = audit(gathered.sample, source, task=task, progress=progress)
    if gathered.batched is None:
        return report
    other = audit(gathered.batched, source, task=task, progress=progress)
    worse = min((other, report), key=lambda each: {1: 0, 2: 1, 0: 2}[each.exit_code])
    return worse if worse.exit_code else replace(worse, advice=UNSTEADY_ADVICE)
