"""Which combination explains which rows: decided by what rounding can explain, and nothing else.

A combination explains a row if the row's vector lies no farther from the combination's than
rounding takes it, and no other combination is significantly nearer. Between two combinations the
rounding that points from one to the other decides: it is small, because rounding points anywhere.

The rounding of stored numbers is known. That of the engine that made them is not, but it takes all
rows about equally far, in directions that no hypothesis explains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e5.audit.evidence import SAME_DIRECTION, Evidence
from e5.audit.hypotheses import Combination, label, simplicity

_Rows = NDArray[Any] | Sequence[int]

CONVERSION = 4e-6  # 1 minus the cosine that a passage through float16 or bfloat16 costs at most
ARITHMETIC = 5e-4  # what an engine of 16 or 8 bits costs in the median at most
SPREAD = 6.0  # times the median, or its part, that an engine's rounding costs a row
MIN_ROWS = 4  # that show an engine's rounding, or that a vector chosen among many is no chance
# The correlation of an engine's rounding with what a hypothesis changes is below this. Measured on
# the built-in checkpoint: 0.19 in bfloat16, 0.14 with weights of 8 bits, 0.25 and more where one
# character was changed.
CORRELATION = 0.22
# Times the expected rounding of the stored numbers, in the mean over the rows; and the same of a
# vector that is chosen among many.
MAX_EXCESS = (1.3, 1.1)
HARMLESS = 1e-5  # 1 minus the cosine below which it does not matter which of two it was
SIGNIFICANT = 4.0  # standard deviations
INFLATION = 4.0  # of the variance of rounding, because an engine's is not quite independent


@dataclass(frozen=True)
class Explanation:
    """A combination and the rows that it explains, or that it might.

    Attributes:
        combination: the simplest that explains the rows.
        rows: their numbers.
        equals: others, as simple, that give the same vectors for these rows.
        rivals: others that explain the rows as well and give other vectors.
    """

    combination: Combination
    rows: Sequence[int]
    equals: Sequence[Combination]
    rivals: Sequence[Combination]


class Decision:
    """Compares a pool of combinations on some rows.

    Attributes:
        distances: `[num_combinations, num_rows]`, 1 minus the cosine.
        consistent: bool, of the same shape: whether a combination may explain a row.
    """

    def __init__(
        self,
        evidence: Evidence,
        pool: Sequence[Combination],
        rows: Sequence[int],
        engine: float = 0.0,
    ) -> None:
        """Find which combinations are consistent with each row.

        `engine` is 1 minus the cosine that the engine's rounding costs in the median.
        """
        self._pool, self._rows = pool, list(rows)
        self.distances = np.array([evidence.distances(each, rows) for each in pool])
        self._expected = np.array([evidence.expected(each, rows) for each in pool])
        self._units = evidence.decoding.units[self._rows]
        self._noise = evidence.decoding.noise[self._rows] + evidence.rounding
        # A vector that is chosen among many fits anything better.
        self._sets = np.array([evidence.is_set(each) for each in pool])
        self._beyond = np.where(self._sets, evidence.rounding, CONVERSION + (SPREAD - 1) * engine)
        tolerance = 2 * self._noise + self._beyond[:, None]
        nearest = self.distances.min(0)
        level = np.maximum(np.minimum(nearest, tolerance.max(0)), self._noise + CONVERSION / 10)
        self._variance = INFLATION * 2 * level / self._units.shape[1]  # of each dimension
        self.consistent = self.distances <= tolerance
        for row, best in enumerate(self.distances.argmin(0)):
            for i in np.flatnonzero(self.consistent[:, row]):
                self.consistent[i, row] = self._excess(i, best, [row]) < SIGNIFICANT

    def _excess(self, i: int, other: int, rows: _Rows) -> float:
        """By how many standard deviations `i` is farther from the rows than `other` is."""
        squares = ((self._expected[i, rows] - self._expected[other, rows]) ** 2).sum(1)
        deviation = np.sqrt((self._variance[rows] * squares).sum())
        farther = (self.distances[i, rows] - self.distances[other, rows]).sum()
        return float(farther / deviation) if deviation > 0 else 0.0

    def explanations(self, *, suspected: bool = False) -> list[Explanation]:
        """The fewest combinations that explain as many rows as they can.

        With `suspected` those are left out whose rows do not show an engine's rounding.
        """
        left, found = np.ones(len(self._rows), bool), list[Explanation]()
        while (counts := (self.consistent & left).sum(1)).max(initial=0):
            most = np.flatnonzero(counts == counts.max())
            # Of those that explain most, those that no other explains significantly better.
            rows = np.flatnonzero(self.consistent[most[0]] & left)
            same = [i for i in most if (self.consistent[i] & left)[rows].all()]
            best = min(same, key=lambda i: self.distances[i, rows].sum())
            same = [i for i in same if self._excess(i, best, rows) < SIGNIFICANT]
            simplest = min(same, key=lambda i: simplicity(self._pool[i]))
            apart = {i: self.apart(i, simplest, rows) for i in same}
            size, name = len(self._pool[simplest]), label(self._pool[simplest])
            equals = [i for i in same if apart[i] < SAME_DIRECTION and len(self._pool[i]) == size]
            rivals = [i for i in same if apart[i] > HARMLESS and label(self._pool[i]) != name]
            few = len(rows) < max(MIN_ROWS, len(self._rows) / 2)
            looks_like = self._is_rounding if suspected else self._is_known_rounding
            if not (few and (suspected or self._sets[simplest])) and looks_like(simplest, rows):
                found.append(
                    Explanation(
                        self._pool[simplest],
                        [self._rows[i] for i in rows],
                        [self._pool[i] for i in equals if i != simplest],
                        [self._pool[i] for i in rivals],
                    )
                )
            left[rows] = False
        return found

    def apart(self, i: int, other: int, rows: _Rows) -> float:
        """1 minus the cosine of what two combinations give, in the mean."""
        squares = ((self._expected[i, rows] - self._expected[other, rows]) ** 2).sum(1)
        return float(squares.mean() / 2)

    def _is_known_rounding(self, i: int, rows: _Rows) -> bool:
        """Whether the rounding of the stored numbers, which is known, costs what it should."""
        excess = MAX_EXCESS[bool(self._sets[i])]
        limit = excess * self._noise[rows].mean() + self._beyond[i]
        return bool(self.distances[i, rows].mean() <= limit)

    def _is_rounding(self, i: int, rows: _Rows) -> bool:
        """Whether what a combination leaves unexplained looks like the rounding of an engine."""
        rest = self.distances[i, rows] - self._noise[rows]
        if rest.min() < np.median(rest) / SPREAD or rest.max() > np.median(rest) * SPREAD:
            return False
        residual = self._units[rows] - self._expected[i, rows]
        for other in range(len(self._pool)):
            change = self._expected[other, rows] - self._expected[i, rows]
            changed = (change**2).sum(1) > 2 * HARMLESS
            if changed.sum() >= MIN_ROWS:
                product = (residual[changed] * change[changed]).sum()
                squares = (change[changed] ** 2).sum() * 2 * rest[changed].sum()
                if abs(product) > CORRELATION * np.sqrt(squares):
                    return False
        return True
