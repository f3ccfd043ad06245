"""The number of a step alone decides its training batch."""

import numpy as np
from small_corpus import batches


def test_the_batch_of_a_step_is_always_the_same() -> None:
    numbers_of_answers = set()
    for step in range(40):
        batch, again = batches().batch(step), batches().batch(step)
        assert batch.token_ids == again.token_ids
        assert np.array_equal(batch.targets, again.targets)
        assert len(batch.token_ids) == len(batch.targets)
        assert all(ids[0] == 1 and ids[-1] == 2 for ids in batch.token_ids)
        np.testing.assert_allclose(np.linalg.norm(batch.targets, axis=1), 1, rtol=1e-5)
        numbers_of_answers.add(len(batch.answers))
    assert 0 in numbers_of_answers
    assert len(numbers_of_answers) > 2
