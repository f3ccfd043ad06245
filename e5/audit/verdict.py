"""The verdict on a sample."""

from e5.audit.report import AuditReport
from e5.audit.sample import Sample
from e5.audit.sources import VectorSource
from e5.prompts import DEFAULT_TASK


def audit(
    sample: Sample, source: VectorSource, *, task: str = DEFAULT_TASK, progress: bool = True
) -> AuditReport:
    """Say whether the vectors of a sample are right, and if not, what was done to them.

    Args:
        sample: the rows to judge.
        source: what computes; a `LocalSource` can compute every hypothesis.
        task: the task that the queries should have; an instruction or a registered name.
        progress: show a progress bar where the error output is a terminal.
    """
    raise NotImplementedError
