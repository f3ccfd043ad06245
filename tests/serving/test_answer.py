"""An answer says how many numbers it holds."""

import numpy as np

from e5.serving.answer import Answer


def test_the_numbers_of_vectors_and_scores_are_counted_together() -> None:
    vectors, scores = np.zeros((3, 8), np.float32), np.zeros((1, 2), np.float32)
    answer = Answer(vectors, scores, [5, 3, 3], [False] * 3, "e5@0", metrics={})
    assert answer.num_numbers == 26
