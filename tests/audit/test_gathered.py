"""Rows make a sample; what cannot be in it is named with the reason."""

import pytest

from e5.audit.gathered import GatheredRow, LeftOut, usable
from e5.errors import InputError


def row(name: str, vector: object, problem: str = "") -> GatheredRow:
    return GatheredRow(name, f"text {name}", "document", vector, problem)


def test_rows_without_text_or_vector_are_left_out_in_their_order() -> None:
    rows = [
        row("a", [1, 2]),
        row("b", None),
        row("c", None, "blank text"),
        row("d", "[3, 4]"),
        row("e", [5]),
    ]
    sample, left_out = usable(rows)
    assert sample.ids == ["a", "d"]
    assert sample.texts == ["text a", "text d"]
    assert sample.roles == ["document", "document"]
    assert sample.vectors.tolist() == [[1, 2], [3, 4]]
    assert left_out == [
        LeftOut("b", "no vector"),
        LeftOut("c", "blank text"),
        LeftOut("e", "a vector of 1 numbers, where others have 2"),
    ]


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        ([], "no rows"),
        ([row("a", None)], "1 row without text or vector; of the first: no vector"),
        (
            [row("a", None, "blank text"), row("b", {})],
            "2 rows without text or vector; of the first: blank text",
        ),
    ],
)
def test_rows_of_which_none_is_usable_are_refused(rows: list[GatheredRow], received: str) -> None:
    with pytest.raises(InputError) as raised:
        usable(rows)
    assert raised.value.field == "vectors"
    assert raised.value.received == received
