"""A step's number decides what it shows."""

import numpy as np
from small_corpus import lessons


def test_a_step_s_lesson_is_always_the_same_and_in_order() -> None:
    kinds = set()
    for step in range(40):
        lesson, again = lessons().lesson(step), lessons().lesson(step)
        assert lesson.token_ids == again.token_ids
        assert np.array_equal(lesson.targets, again.targets)
        assert len(lesson.token_ids) == len(lesson.targets)
        assert all(ids[0] == 1 and ids[-1] == 2 for ids in lesson.token_ids)
        np.testing.assert_allclose(np.linalg.norm(lesson.targets, axis=1), 1, rtol=1e-5)
        kinds.add(len(lesson.answers))
    assert 0 in kinds
    assert len(kinds) > 2
