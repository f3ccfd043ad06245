"""How far each row's vector lies from what each combination of hypotheses would give."""

from collections.abc import Callable, Sequence

import numpy as np

from e5.audit.hypotheses import Combination, Computation, PromptRules, computations
from e5.audit.sample import Sample
from e5.audit.storage import Decoding, Floats
from e5.audit.vector_source import VectorSource
from e5.vectors import Vectors

SAME_DIRECTION = 1e-9  # 1 minus the cosine of directions that are one
CHUNK = 256  # computations that are computed between two steps of the progress bar


class Evidence:
    """What was computed for a sample, each combination and row once.

    Attributes:
        rows: the numbers of all rows.
        decoding: how the stored numbers are read.
        rounding: what the source's own rounding costs, as 1 minus a cosine.
    """

    def __init__(
        self,
        sample: Sample,
        source: VectorSource,
        rules: PromptRules,
        update: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Compute nothing yet; `update` receives how many computations were done."""
        self.rows, self.rounding = range(len(sample.texts)), source.rounding
        self._sample, self._source, self._rules, self._update = sample, source, rules, update
        self._candidates: dict[tuple[Combination, int], list[Vectors]] = {}
        self._ways: dict[tuple[Combination, int], list[Computation]] = {}
        self._nearest: dict[tuple[Combination, int], tuple[Floats, float]] = {}

    @property
    def decoding(self) -> Decoding:
        """How the stored numbers are read."""
        return self._decoding

    @decoding.setter
    def decoding(self, decoding: Decoding) -> None:
        self._decoding, self._units = decoding, decoding.units
        self._nearest.clear()

    def ways(self, combination: Combination, row: int) -> list[Computation]:
        """How a row's vector may have been computed under a combination."""
        key = (combination, row)
        if key not in self._ways:
            text, role = self._sample.texts[row], self._sample.roles[row]
            self._ways[key] = computations(combination, text, role, self._rules)
        return self._ways[key]

    def length(self, row: int) -> int:
        """The characters of a row's text."""
        return len(self._sample.texts[row])

    def is_set(self, combination: Combination) -> bool:
        """Whether a row's vector is chosen among many."""
        return any(way.pooling.startswith("padding") for way in self.ways(combination, 0))

    def can(self, combination: Combination) -> bool:
        """Whether the source can compute a combination."""
        return all(self._source.can(way) for way in self.ways(combination, 0))

    def changes(self, combination: Combination, other: Combination, row: int) -> bool:
        """Whether two combinations compute a row differently."""
        return self.ways(combination, row) != self.ways(other, row)

    def differ(self, combination: Combination, other: Combination, rows: Sequence[int]) -> bool:
        """Whether two combinations give different directions for any of the rows."""
        difference = self.expected(combination, rows) - self.expected(other, rows)
        return bool(((difference**2).sum(1) > 2 * SAME_DIRECTION).any())

    def compute(self, combinations: Sequence[Combination], rows: Sequence[int]) -> None:
        """Compute what is not yet known of these combinations and rows, in one go."""
        self.compute_each([(each, row) for each in combinations for row in rows])

    def compute_each(self, pairs: Sequence[tuple[Combination, int]]) -> None:
        """Compute what is not yet known of these pairs of a combination and a row."""
        missing = [
            (*pair, way)
            for pair in dict.fromkeys(pairs)
            if pair not in self._candidates
            for way in self.ways(*pair)
        ]
        distinct = list(dict.fromkeys(way for _, _, way in missing))
        found: dict[Computation, Vectors] = {}
        for start in range(0, len(distinct), CHUNK):
            chunk = distinct[start : start + CHUNK]
            found |= zip(chunk, self._source.compute(chunk), strict=True)
            self._update(len(chunk))
        for combination, row, way in missing:
            vectors = found[way]
            if len(vectors) > 2:  # one for each length to which the text may have been padded
                distances = ((self._decoding.expected(vectors) - self._units[row]) ** 2).sum(1)
                vectors = vectors[[distances.argmin()]]
            self._candidates.setdefault((combination, row), []).append(vectors)

    def distances(self, combination: Combination, rows: Sequence[int]) -> Floats:
        """1 minus the cosine of each row's vector with the combination's."""
        self.compute([combination], rows)
        return np.array([self._nearest_to(combination, row)[1] for row in rows])

    def distances_to_owners(
        self, combination: Combination, rows: Sequence[int], owners: Sequence[int]
    ) -> Floats:
        """1 minus the cosine of each row's vector with what the combination gives for other rows.

        `[num_rows, num_owners]`. A row whose role is not known counts with the nearer of its two
        vectors.
        """
        units, ways = self._units[rows], (0, -1)
        given = [self._decoding.expected(self.candidates(combination, owners, i)) for i in ways]
        distances: Floats = 1 - np.max([units @ each.T for each in given], axis=0)
        return distances

    def expected(self, combination: Combination, rows: Sequence[int]) -> Floats:
        """The directions that the combination gives, `[num_rows, dimensions]`."""
        self.compute([combination], rows)
        return np.array([self._nearest_to(combination, row)[0] for row in rows])

    def candidates(self, combination: Combination, rows: Sequence[int], which: int) -> Vectors:
        """The first (0) or the last (-1) vector of each row, if there may be several."""
        self.compute([combination], rows)
        return np.array([self._candidates[combination, row][which][0] for row in rows])

    def whole(self, combination: Combination, rows: Sequence[int]) -> Vectors:
        """The whole vectors that the combination gives, `[num_rows, hidden_size]`."""
        self.compute([combination], rows)
        found = []
        for row in rows:
            vectors = np.concatenate(self._candidates[combination, row])
            distances = ((self._decoding.expected(vectors) - self._units[row]) ** 2).sum(1)
            found.append(vectors[distances.argmin()])
        return np.array(found)

    def directions(self, texts: Sequence[str]) -> Floats:
        """Those of other texts without a prompt, `[num_texts, dimensions]`."""
        found = self._source.compute([Computation("", text) for text in texts])
        directions: Floats = self._decoding.expected(np.concatenate(found))
        return directions

    def _nearest_to(self, combination: Combination, row: int) -> tuple[Floats, float]:
        key = (combination, row)
        if key not in self._nearest:
            expected = self._decoding.expected(np.concatenate(self._candidates[key]))
            distances = ((expected - self._units[row]) ** 2).sum(1) / 2
            if not self._units[row].any():
                distances[:] = 1.0  # a row without a direction
            best = int(distances.argmin())
            self._nearest[key] = expected[best], float(distances[best])
        return self._nearest[key]
