"""A sample whose parts do not belong together is refused in one sentence."""

from typing import Any

import numpy as np
import pytest

from e5.audit import Sample
from e5.errors import InputError

GOOD: dict[str, Any] = {
    "ids": ["a", "b"],
    "texts": ["Snow.", "Rain."],
    "vectors": np.ones((2, 3), np.float32),
    "roles": ["query", "auto"],
}


def test_a_sample_of_rows_that_belong_together_is_made() -> None:
    assert len(Sample(**GOOD).texts) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": []}, "texts: received no rows; send at least one text with its vector."),
        ({"ids": ["a"]}, "ids: received 1 for 2 texts; send one for each text."),
        (
            {"vectors": np.ones((3, 3), np.float32)},
            "vectors: received 3 for 2 texts; send one for each text.",
        ),
        (
            {"vectors": np.ones(2, np.float32)},
            "vectors: received an array of shape (2,); send [num_rows, dimensions] numbers.",
        ),
        (
            {"vectors": np.ones((2, 0), np.float32)},
            "vectors: received an array of shape (2, 0); send [num_rows, dimensions] numbers.",
        ),
        ({"roles": ["query"]}, "roles: received 1 for 2 texts; send one for each text."),
        (
            {"roles": ["query", "passage"]},
            "roles: received 'passage'; use query, document or auto.",
        ),
        (
            {"texts": ["Snow.", " "]},
            "texts[1]: received blank text; send text, or leave it out.",
        ),
    ],
)
def test_others_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Sample(**GOOD | changes)
    assert str(caught.value) == message
