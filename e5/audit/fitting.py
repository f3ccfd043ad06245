"""Which way to read stored numbers fits best, if there are several.

The numbers of sentence-transformers' int8 have a scale and an offset of their own in each
dimension, which nobody stores. They are found by what a combination gives: the right combination
fits to within rounding, a wrong one does not.
"""

from collections.abc import Sequence

import numpy as np

from e5.audit.evidence import Evidence
from e5.audit.hypotheses import Combination, without
from e5.audit.storage import MIN_FIT_ROWS, Decoding
from e5.vectors import finish

# The part of the vectors' variance that a fit leaves unexplained: of the right combination, and of
# one that is near enough to find the right one by it.
FIT, FIRST_FIT = 0.01, 0.6
READABLE = 0.05  # 1 minus the cosine up to which numbers need no other way to be read
AMBIGUOUS = 1.25  # times the variance that the best fit leaves unexplained


def choose_decoding(
    evidence: Evidence,
    decodings: Sequence[Decoding],
    pool: Sequence[Combination],
    rows: Sequence[int],
    *,
    final: bool,
) -> list[Combination]:
    """Read the stored numbers as what they fit best, under any combination of the pool.

    Args:
        evidence: gets the decoding.
        decodings: the ways to read the numbers.
        pool: the combinations that were computed for the rows.
        rows: the probes.
        final: whether the right combination should be in the pool by now.

    Returns:
        Combinations whose scales and offsets fit almost as well as the best; none for decodings
        without scales of their own.
    """
    # Fits that begin with the present decoding choose among two vectors by it.
    fits = [
        (combination, *_fit(evidence, decoding, combination, rows))
        for decoding in decodings
        if decoding.per_dimension and len(rows) >= MIN_FIT_ROWS
        for combination in pool
    ]
    direct: list[tuple[float, Decoding]] = []
    for decoding in decodings:
        if not decoding.per_dimension:
            evidence.decoding = decoding
            nearest = np.min([evidence.distances(each, rows) for each in pool], axis=0)
            direct.append((float(np.median(nearest)), decoding))
    distance, evidence.decoding = min(direct, key=lambda each: each[0])
    if not fits or distance < READABLE:
        return []
    least = min(rest for _, _, rest in fits)
    if least > (FIT if final else FIRST_FIT):
        return []
    near = [each for each in fits if each[2] <= AMBIGUOUS * least]
    simplest, evidence.decoding, _ = min(near, key=lambda each: (len(each[0]), each[2]))
    # The final norm scales each dimension. So with scales of their own the normalised vectors
    # before it are stored as the same numbers as those after it.
    best = without(simplest, "pooling")
    return [each for each, _, _ in near if evidence.differ(without(each, "pooling"), best, rows)]


def _fit(
    evidence: Evidence, decoding: Decoding, combination: Combination, rows: Sequence[int]
) -> tuple[Decoding, float]:
    """The numbers decoded by what a combination gives, and how much that leaves unexplained."""
    # A row whose role is not known has two vectors, and those of padding have many.
    ways = [evidence.candidates(combination, rows, which) for which in (0, -1)]
    ways.append(evidence.whole(combination, rows))
    fits = [decoding.fit(rows, way) for way in ways]
    fits += [decoding.fit(rows, finish(way, None, normalize=True)) for way in ways]
    return min(fits, key=lambda each: each[1])
