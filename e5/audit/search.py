"""Which combinations of hypotheses are worth comparing: singles first, then what improves on them.

The combinations of one of each group are too many to compute. So the best ones are extended by one
hypothesis at a time, on a few rows that show most.
"""

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

from e5.audit.evidence import Evidence
from e5.audit.hypotheses import (
    HYPOTHESES,
    OTHER_INSTRUCTIONS,
    PADDING,
    RIGHT,
    Combination,
    Hypothesis,
    combine,
    instead,
    without,
)
from e5.audit.sample import Sample
from e5.audit.storage import Floats

MAX_PROBES = 16  # rows that are computed under every hypothesis at a time
# Of hypotheses that are many or cost much: how many rows are computed, how many of them are left.
SCREENINGS = [(1, 8), (3, 3)]
BEAM = 4  # combinations that are extended at a time
SWAPPED = 2  # of them, those in which one hypothesis is replaced by another of its group
MAX_DEPTH = 3  # extensions
EXTENSION_PROBES = 6
UNRELATED = 0.7  # 1 minus a cosine: vectors of different texts are nearer than that
EXPLAINED = 5e-5  # 1 minus a cosine, beyond rounding, below which nothing need be added
# A smaller improvement of 1 minus the cosine than to this part is none.
IMPROVEMENT = 0.7


def choose_probes(sample: Sample, rows: Sequence[int]) -> list[int]:
    """At most `MAX_PROBES` of the rows: those in which hypotheses differ most, and some others."""
    texts = sample.texts
    longest = sorted(rows, key=lambda row: -len(texts[row]))[:4]
    groups = [
        [row for row in rows if "\n" in texts[row]],
        [row for row in rows if texts[row] != texts[row].strip()],
        [row for row in rows if "<" in texts[row]],
        [row for row in rows if texts[row] != texts[row].lower()],
        [row for row in rows if sample.roles[row] == "query"],
        [row for row in rows if sample.roles[row] == "document"],
        longest,
        sorted(rows, key=lambda row: len(texts[row])),
    ]
    chosen = dict.fromkeys([row for group in groups for row in group[:2]] + longest)
    others = [row for row in rows if row not in chosen]
    room = max(MAX_PROBES - len(chosen), 0)
    spaced = np.linspace(0, len(others) - 1, min(room, len(others))).round().astype(int)
    return sorted([*chosen, *(others[i] for i in spaced)][:MAX_PROBES])


class Search:
    """The combinations that were compared on some rows.

    Attributes:
        rows: the probes.
        pool: every combination that was computed for all probes, `RIGHT` first.
    """

    def __init__(self, evidence: Evidence, rows: Sequence[int]) -> None:
        """Compare every hypothesis alone that the packed forward can compute."""
        self.rows, self._evidence = rows, evidence
        self.pool: list[Combination] = [RIGHT]
        self._singles = [(each,) for each in HYPOTHESES if evidence.can((each,))]
        self._add([each for each in self._singles if each[0].packed])
        self._add(self._screened(RIGHT, OTHER_INSTRUCTIONS))

    def widen(self) -> None:
        """Extend what fits best, and compare what only the unmodified model computes, if needed."""
        self._extend([OTHER_INSTRUCTIONS])
        if self._unexplained():
            self._add([each for each in self._singles if not each[0].packed])
            self._add(self._screened(RIGHT, PADDING))
            self._extend([OTHER_INSTRUCTIONS, PADDING])
        # Parts of the nearest may explain as much.
        nearest = self._best(self.rows, self.pool)
        self._add(
            [
                part
                for each in nearest
                for n in range(2, len(each))
                for part in combinations(each, n)
            ]
        )

    def _extend(self, screened: Sequence[Sequence[Hypothesis]]) -> None:
        """Add one hypothesis after the other to the best combinations, while that helps."""
        evidence, beam = self._evidence, self._best(self.rows, self.pool)
        alone = [each for each in self.pool if len(each) == 1]
        # A text may become too long only by another prompt.
        effective = [
            each
            for (each,) in alone
            if each.group == "length" or evidence.differ((each,), RIGHT, self.rows)
        ]
        for depth in range(MAX_DEPTH):
            by_length = sorted(self._unexplained(UNRELATED), key=evidence.length)
            if not by_length:
                return
            # Short texts cost little, and only long ones show what was truncated.
            rows = sorted({*by_length[: EXTENSION_PROBES - 1], by_length[-1]})
            before = self._least(rows)
            extended = [new for c in beam for h in effective if (new := combine(c, h)) is not None]
            extended += [instead(c, h) for c in beam[:SWAPPED] for h in effective]
            for each, some in product(beam[:SWAPPED], screened):
                extended += self._screened(without(each, some[0].group), some)
            extended = [new for new in dict.fromkeys(extended) if new not in self.pool]
            if PADDING in screened:  # what is packed was extended before
                extended = [new for new in extended if not all(each.packed for each in new)]
            evidence.compute(extended, rows)
            beam = self._best(rows, extended)
            self._add([*beam, *self._explaining(rows, extended)])
            if not beam or (depth and (self._least(rows) > IMPROVEMENT * before).all()):
                return

    def _add(self, chosen: Sequence[Combination]) -> None:
        new = [each for each in dict.fromkeys(chosen) if each not in self.pool]
        self._evidence.compute(new, self.rows)
        self.pool += new

    def _screened(
        self, combination: Combination, hypotheses: Sequence[Hypothesis]
    ) -> list[Combination]:
        """The extensions that bring a few short rows nearest, of hypotheses that cost much."""
        evidence = self._evidence
        tried = [new for each in hypotheses if (new := combine(combination, each)) is not None]
        tried = [new for new in tried if evidence.can(new)]
        by_length = sorted(self._unexplained(), key=evidence.length)
        for number, most in SCREENINGS:
            gains = dict[Combination, float]()
            few = {
                new: [row for row in by_length if evidence.changes(new, combination, row)][:number]
                for new in tried
            }
            evidence.compute_each([(new, row) for new in tried for row in few[new]])
            for new, rows in few.items():
                if rows:
                    before = evidence.distances(combination, rows).mean()
                    gains[new] = float(evidence.distances(new, rows).mean() / before)
            tried = sorted(gains, key=lambda new: gains[new])[:most]
        return [new for new in tried if gains[new] < IMPROVEMENT]

    def _unexplained(self, most: float = np.inf) -> list[int]:
        """The rows to which nothing is near enough, and something nearer than `most`."""
        noise = self._evidence.decoding.noise
        least = zip(self.rows, self._least(self.rows), strict=True)
        return [row for row, distance in least if EXPLAINED + 3 * noise[row] < distance < most]

    def _explaining(self, rows: Sequence[int], among: Sequence[Combination]) -> list[Combination]:
        """Those that leave nothing of one of the rows to be explained."""
        limits = EXPLAINED + 3 * self._evidence.decoding.noise[list(rows)]
        return [each for each in among if (self._evidence.distances(each, rows) < limits).any()]

    def _least(self, rows: Sequence[int]) -> Floats:
        least: Floats = np.min([self._evidence.distances(each, rows) for each in self.pool], axis=0)
        return least

    def _best(self, rows: Sequence[int], among: Sequence[Combination]) -> list[Combination]:
        """The nearest on the whole and the nearest to each row, of equal ones the first."""
        if not among:
            return []
        table = np.array([self._evidence.distances(each, rows) for each in among]).round(12)
        order = np.log10(table + 1e-7).mean(1).argsort(kind="stable").tolist()
        best: list[int] = []
        for i in [*order[: BEAM // 2], *table.argmin(0).tolist(), *order]:
            if len(best) < BEAM and not any(np.allclose(table[i], table[j], 0, 1e-9) for j in best):
                best.append(i)
        return [among[i] for i in best]
