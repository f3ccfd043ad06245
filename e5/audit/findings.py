"""What was found out about each row of a sample, round by round."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from e5.audit.decision import ARITHMETIC, CONVERSION, HARMLESS, Decision, Explanation
from e5.audit.evidence import Evidence
from e5.audit.fitting import choose_decoding
from e5.audit.hypotheses import HYPOTHESES, RIGHT, Combination, instead, label, simplicity
from e5.audit.report import UNKNOWN
from e5.audit.sample import Sample
from e5.audit.search import Search, choose_probes
from e5.audit.storage import Decoding

MAX_ROUNDS = 3  # of searches, each among the rows that are still unexplained
MAX_OWNERS = 3  # combinations beside the accepted ones that are tried with other rows' texts
DISTINCT = 10.0  # times as near as to its own text a vector must be to another row's


@dataclass(frozen=True)
class Finding:
    """How a row's vector was made.

    Attributes:
        combination: the hypotheses that explain it; None if nothing does.
        owner: the row to whose text the vector belongs, if it is another.
        shared: whether that row has the same vector.
    """

    combination: Combination | None = None
    owner: int | None = None
    shared: bool = False

    @property
    def label(self) -> str:
        """The names of what was found."""
        if self.combination is None:
            return UNKNOWN
        if self.owner is None:
            return label(self.combination)
        order = "duplicated" if self.shared else "shuffled"
        return f"{label(self.combination)} + {order}" if self.combination else order


class Findings:
    """Looks for what explains each row, until nothing more is found.

    Attributes:
        rows: what was found about each row.
        accepted: the combinations that explain rows, the first found first.
        rivals: combinations that explain the same rows equally well, so that none was accepted.
        pool: every combination that was compared on the probes of a search.
        probes: the rows of the first search.
    """

    def __init__(self, sample: Sample, evidence: Evidence, decodings: Sequence[Decoding]) -> None:
        """Compute what is needed; this takes nearly all of an audit's time."""
        self.rows = [Finding()] * len(sample.texts)
        self.accepted: list[Combination] = []
        self.rivals: list[Combination] = []
        self.pool: list[Combination] = [RIGHT]
        self._evidence, self._nearest = evidence, dict[int, float]()
        self._fits: list[Combination] = []  # that give other scales to stored numbers, equally well
        self._engine = 0.0  # 1 minus the cosine that the engine's rounding costs, once it is known
        usable = np.flatnonzero(decodings[0].units.any(1)).tolist()
        self.probes = choose_probes(sample, usable)
        if not usable:
            return
        self._compare_singles(decodings)
        left = self._find_owners(self._label(usable))
        for _ in range(MAX_ROUNDS):
            if not left or not self._search(decodings, choose_probes(sample, left)):
                break
            left = self._label([row for row in usable if self.rows[row].owner is None])
        self._find_owners(left)

    def _compare_singles(self, decodings: Sequence[Decoding]) -> None:
        """Find out how the numbers are read, and what one hypothesis explains."""
        search = Search(self._evidence, self.probes)
        if len(decodings) > 1:
            choose_decoding(self._evidence, decodings, search.pool, self.probes, final=False)
            search = Search(self._evidence, self.probes)
        if not self._evidence.decoding.fitted:
            self._judge(search, suspect=False)

    def _search(self, decodings: Sequence[Decoding], rows: Sequence[int]) -> bool:
        """Compare what may explain the rows that are left; whether anything new does."""
        search = Search(self._evidence, rows)
        search.widen()
        if len(decodings) > 1 and not self.accepted:
            for _ in range(2):  # the second begins with the vectors that the first has chosen
                self._fits = choose_decoding(
                    self._evidence, decodings, search.pool, rows, final=True
                )
        return self._judge(search, suspect=True)

    def _judge(self, search: Search, *, suspect: bool) -> bool:
        """Accept what explains the probes of a search; whether that is anything new.

        With `suspect` the engine that made the vectors may be found to round.
        """
        evidence, rows = self._evidence, search.rows
        self.pool = list(dict.fromkeys([*self.pool, *search.pool]))
        least = np.min([evidence.distances(each, rows) for each in search.pool], axis=0)
        self._nearest |= zip(rows, least.tolist(), strict=True)
        found = Decision(evidence, search.pool, rows, self._engine).explanations()
        if not found and suspect and (engine := self._engine_rounding()):
            decision = Decision(evidence, search.pool, rows, engine)
            if found := decision.explanations(suspected=True):
                self._engine = engine
        new = False
        for each in found:
            best = self._most_general(each, [*self.probes, *rows])
            fits = [c for c in self._fits if evidence.differ(c, best, rows)]
            if rivals := [*each.rivals, *fits]:
                self.rivals += [best, *rivals]
            elif best not in self.accepted:
                self.accepted.append(best)
                new = True
        return new

    def _most_general(self, found: Explanation, rows: Sequence[int]) -> Combination:
        """Of combinations that give the same vectors for some rows, what explains most others."""
        changes, given = self._evidence.changes, found.combination
        others = [instead(given, each) for each in HYPOTHESES]
        equals = [
            each
            for each in others
            if len(each) == len(given) and not any(changes(each, given, row) for row in found.rows)
        ]
        pool = sorted({given, *found.equals, *equals}, key=simplicity)
        if len(pool) == 1:
            return given
        counts = Decision(self._evidence, pool, rows, self._engine).consistent.sum(1)
        return pool[int(counts.argmax())]

    def _merge(self, rows: Sequence[int]) -> bool:
        """Replace two combinations by both together, if that explains what each of them does."""
        for one, other in permutations(self.accepted, 2):
            both = one
            for hypothesis in other:
                both = instead(both, hypothesis)
            pool = [RIGHT, one, other, both]
            consistent = Decision(self._evidence, pool, rows, self._engine).consistent
            if (consistent[0] | consistent[3] | ~consistent[1:3].any(0)).all():
                kept = [each for each in self.accepted if each not in (one, other, both)]
                self.accepted = [both, *kept]
                return True
        return False

    def _label(self, rows: Sequence[int]) -> list[int]:
        """Compare what was accepted on all rows; returns those that nothing explains."""
        while self._merge(rows):
            pass
        pool = list(dict.fromkeys([RIGHT, *self.accepted, *self.rivals]))
        decision = Decision(self._evidence, pool, rows, self._engine)
        left = []
        for position, row in enumerate(rows):
            chosen = self._explanation_of(decision, pool, position)
            self.rows[row] = Finding(chosen)
            if chosen is None:
                left.append(row)
        return left

    def _explanation_of(
        self, decision: Decision, pool: Sequence[Combination], position: int
    ) -> Combination | None:
        """What explains a row: right if nothing that matters speaks against it."""
        consistent = np.flatnonzero(decision.consistent[:, position]).tolist()
        apart = [i for i in consistent if decision.apart(i, 0, [position]) > HARMLESS]
        if 0 in consistent and not apart:
            return RIGHT
        known = [i for i in consistent if pool[i] in self.accepted]
        if 0 in consistent and RIGHT not in self.rivals:
            known.append(0)
        nearest = min(known, key=lambda i: decision.distances[i, position], default=None)
        return None if nearest is None else pool[nearest]

    def _engine_rounding(self) -> float:
        """1 minus the cosine that the engine's rounding seems to cost, in the median."""
        if self._evidence.decoding.fitted:
            return 0.0  # a part of it went into the scales
        noise = self._evidence.decoding.noise
        rest = [distance - noise[row] for row, distance in self._nearest.items()]
        median = float(np.median(rest))
        return max(median, 0.0) if median < ARITHMETIC else 0.0

    def _find_owners(self, left: list[int]) -> list[int]:
        """Find rows whose vectors are those of other rows' texts; returns what is left."""
        if not left:
            return left
        evidence, units = self._evidence, self._evidence.decoding.units
        rows = np.flatnonzero(units.any(1)).tolist()
        known = list(dict.fromkeys([*self.accepted, RIGHT]))
        pool = [c for c in self.pool if c not in known and len(c) < 2 and not evidence.is_set(c)]
        # Others are compared on the probes, where they are known, and the best of them on all rows.
        near = [evidence.distances_to_owners(each, left, self.probes).min(1) for each in pool]
        order = np.argsort([np.log10(each + 1e-7).mean() for each in near], kind="stable")
        limits = 2 * (evidence.decoding.noise + evidence.rounding) + CONVERSION
        for each in [*known, *(pool[i] for i in order[:MAX_OWNERS])]:
            if evidence.is_set(each):
                continue
            distances = evidence.distances_to_owners(each, left, rows)
            for row, found in zip(left, distances, strict=True):
                owner, least = rows[int(found.argmin())], found.min()
                own = evidence.distances(each, [row])[0]
                if least <= limits[row] and own > DISTINCT * least + HARMLESS:
                    shared = bool(1 - units[row] @ units[owner] <= limits[row])
                    self.rows[row] = Finding(each, owner, shared)
            left = [row for row in left if self.rows[row].combination is None]
            if not left:
                break
        return left
