"""Cosines are those of the first vector with each of the others, and ranks put the best first."""

import numpy as np

from e5.gateway.ranking import cosines_with_first, ranked

VECTORS = np.array([[2, 0], [0, 3], [1, 1], [5, 0], [1, 1]], np.float32)


def test_cosines_are_in_the_order_of_the_vectors() -> None:
    np.testing.assert_allclose(cosines_with_first(VECTORS), [0, 0.5**0.5, 1, 0.5**0.5], atol=1e-6)


def test_the_nearest_comes_first_and_equals_stay_in_their_order() -> None:
    assert [index for index, _ in ranked(VECTORS)] == [2, 1, 3, 0]
    assert [cosine for _, cosine in ranked(VECTORS)] == sorted(cosines_with_first(VECTORS))[::-1]
