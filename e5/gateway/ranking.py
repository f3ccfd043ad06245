"""What the routes that rank or compare share: the cosines of the first vector with the others."""

import numpy as np

from e5.vectors import Vectors, cosine_scores


def cosines_with_first(vectors: Vectors) -> Vectors:
    """The cosine of each vector after the first with the first."""
    cosines: Vectors = cosine_scores(vectors[:1], vectors[1:])[0] / 100
    return cosines


def ranked(vectors: Vectors) -> list[tuple[int, float]]:
    """The index of each vector after the first, from 0, and its cosine; the nearest comes first."""
    cosines = cosines_with_first(vectors)
    return [(int(i), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")]
