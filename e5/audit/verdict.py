"""The verdict on a sample: which hypotheses explain its vectors, row by row and as a whole."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from e5.audit.advice import advice_on
from e5.audit.decision import MIN_ROWS
from e5.audit.evidence import Evidence
from e5.audit.findings import Findings
from e5.audit.hypotheses import RIGHT, SAME_VECTORS, Combination, PromptRules, label
from e5.audit.own_texts import OWN_TEXTS
from e5.audit.ranking import neighbour_ndcg, similarity_correlation
from e5.audit.report import KEPT, OTHER_MODEL, RIGHT_LABEL, UNKNOWN, AuditReport, RowVerdict
from e5.audit.sample import Sample
from e5.audit.search import MAX_PROBES
from e5.audit.storage import decodings, storage_names, unit_rows
from e5.audit.vector_source import VectorSource
from e5.prompts import DEFAULT_TASK
from e5.texts import check_task

NEAREST = 3  # hypotheses that are named beside `unknown`
# Vectors are another model's if their cosines with this model's vectors of usual texts are so small
# a part of the cosines among these, and if what is alike for them is not alike for this model: two
# models correlate by 0.3 to 0.7, this model's vectors with the mean subtracted by more than 0.95.
RESEMBLANCE = 1 / 3
CORRELATED = 0.75


def audit(
    sample: Sample, source: VectorSource, *, task: str = DEFAULT_TASK, progress: bool = True
) -> AuditReport:
    """Say whether the vectors of a sample are right, and if not, what was done to them.

    Args:
        sample: the rows to judge.
        source: what computes; a `LocalSource` can compute every hypothesis.
        task: the task that the queries should have; an instruction or a registered name.
        progress: show a progress bar where the error output is a terminal.

    Raises:
        InputError: for a task that cannot be one.
    """
    rules = PromptRules(source.prompts, check_task(task))
    ways = decodings(sample.vectors, source.dimensions)
    if not ways:
        return _unreadable(sample)
    hidden = None if progress else True  # None: where the error output is no terminal
    with tqdm(desc="audit", unit="text", delay=2, leave=False, disable=hidden) as bar:
        evidence = Evidence(sample, source, rules, bar.update)
        evidence.decoding = ways[0]
        evidence.compute([RIGHT], evidence.rows)
        return _Summary(sample, evidence, Findings(sample, evidence, ways)).report()


def _unreadable(sample: Sample) -> AuditReport:
    """The report on vectors that have more dimensions than the model."""
    rows = [RowVerdict(name, OTHER_MODEL, 0.0) for name in sample.ids]
    advice = advice_on([OTHER_MODEL], [])
    shares = {OTHER_MODEL: 1.0}
    return AuditReport(OTHER_MODEL, 0.0, 0.0, 0.0, 1.0, shares, rows, [], [], None, advice)


class _Summary:
    """Puts findings together as a report."""

    def __init__(self, sample: Sample, evidence: Evidence, findings: Findings) -> None:
        self._sample, self._evidence, self._findings = sample, evidence, findings
        self._rows = list(evidence.rows)
        self._whole = evidence.whole(RIGHT, self._rows)

    def report(self) -> AuditReport:
        evidence, findings, rows = self._evidence, self._findings, self._rows
        storage = self._storage()
        kept = [name for name in storage if name.split()[0] in KEPT]
        labels = [each.label for each in findings.rows]
        if set(labels) == {UNKNOWN} and self._is_another_model():
            labels = [OTHER_MODEL] * len(rows)
        without_storage = {UNKNOWN, OTHER_MODEL}
        labels = [name if name in without_storage else " + ".join([name, *kept]) for name in labels]
        counts = Counter(labels)
        right = " + ".join([RIGHT_LABEL, *kept])
        verdict = max(counts, key=lambda name: (name != right, counts[name]))
        chosen = [row for row in rows if labels[row] == verdict]
        nearest = self._nearest(chosen)
        unknown = [row for row in rows if findings.rows[row].combination is None]
        evidence.compute(nearest[:NEAREST], unknown)
        cosines = [1 - self._distance(row, nearest) for row in rows]
        cosine = float(np.mean([cosines[row] for row in chosen]))
        parts = verdict.split(" + ")
        alternatives = [verdict.replace(*p) for p in SAME_VECTORS.items() if p[0] in parts]
        alternatives += [label(each) for each in self._alternatives(chosen, nearest)]
        whole = unit_rows(self._whole.astype(np.float64))
        return AuditReport(
            verdict=verdict,
            cosine=cosine,
            cosine_right=float(1 - evidence.distances(RIGHT, chosen).mean()),
            margin=self._margin(chosen, nearest),
            share=len(chosen) / len(rows),
            shares={name: count / len(rows) for name, count in counts.most_common()},
            rows=[
                RowVerdict(*each) for each in zip(self._sample.ids, labels, cosines, strict=True)
            ],
            alternatives=list(dict.fromkeys(alternatives)),
            storage=storage,
            ndcg=neighbour_ndcg(evidence.decoding.units, whole, self._sample.roles),
            advice=advice_on([part.split()[0] for part in parts], alternatives),
        )

    def _storage(self) -> list[str]:
        """How the numbers are stored, by the rows that are explained."""
        found = [i for i, each in enumerate(self._findings.rows) if each.combination is not None]
        found = [i for i in found if self._findings.rows[i].owner is None] or self._rows
        usable = [i for i in found if self._evidence.decoding.units[i].any()]
        if not usable:
            return []
        whole = [
            self._evidence.whole(self._findings.rows[i].combination or RIGHT, [i])[0]
            for i in usable
        ]
        return storage_names(self._sample.vectors[usable], np.array(whole), self._evidence.decoding)

    def _distance(self, row: int, nearest: Sequence[Combination]) -> float:
        """How far a row is from what its verdict gives, or from the nearest if it has none."""
        found, evidence = self._findings.rows[row], self._evidence
        if found.combination is None:
            some = [RIGHT, *nearest[:NEAREST]]
            return min(float(evidence.distances(each, [row])[0]) for each in some)
        if found.owner is None:
            return float(evidence.distances(found.combination, [row])[0])
        return float(evidence.distances_to_owners(found.combination, [row], [found.owner])[0, 0])

    def _nearest(self, chosen: Sequence[int]) -> list[Combination]:
        """The combinations that come nearest to the rows of the verdict, the best first."""
        few = chosen[:MAX_PROBES]
        pool = self._findings.pool
        self._evidence.compute(pool, few)
        means = [float(self._evidence.distances(each, few).mean()) for each in pool]
        return [pool[i] for i in np.argsort(means, kind="stable")]

    def _margin(self, chosen: Sequence[int], nearest: Sequence[Combination]) -> float:
        """By how much the best exceeds the next that gives other vectors."""
        few = chosen[:MAX_PROBES]
        evidence, found = self._evidence, self._findings.rows[chosen[0]]
        best = nearest[0] if found.combination is None else found.combination
        own = float(np.mean([self._distance(row, nearest) for row in few]))
        others = [each for each in nearest if evidence.differ(each, best, few)]
        return float(evidence.distances(others[0], few).mean()) - own if others else 0.0

    def _alternatives(
        self, chosen: Sequence[int], nearest: Sequence[Combination]
    ) -> list[Combination]:
        """What gives the same vectors as the verdict; of `unknown`, what comes nearest."""
        found = self._findings.rows[chosen[0]].combination
        if found is None:
            is_blank = not self._evidence.decoding.units[chosen].any()
            return [] if is_blank else list(self._findings.rivals or nearest[:NEAREST])
        few, size = chosen[:MAX_PROBES], max(len(found), 1)
        same = [each for each in nearest if len(each) <= size and label(each) != label(found)]
        return [each for each in same if not self._evidence.differ(each, found, few)]

    def _is_another_model(self) -> bool:
        """Whether the vectors do not lie where this model's lie."""
        units = self._evidence.decoding.units
        right = self._evidence.expected(RIGHT, self._rows)
        if (
            not units.any(1).all()
            or len(units) < MIN_ROWS
            or "int8" in self._evidence.decoding.names
        ):
            return False  # each dimension of int8 may have a scale of its own
        # The texts of the sample may be the wrong ones.
        usual = self._evidence.directions([each.text for each in OWN_TEXTS if len(each.text) < 100])
        likeness = (right @ usual.T).mean(), (usual @ usual.T).mean()
        if min(likeness) <= 0 or (units @ usual.T).mean() > RESEMBLANCE * min(likeness):
            return False
        return similarity_correlation(units, right) < CORRELATED
