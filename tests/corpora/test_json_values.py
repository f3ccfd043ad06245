"""JSON is read as it is written, wherever a reading of the file ends."""

import io
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5.corpora.documents import Unkept
from e5.corpora.json_values import decode, elements
from e5.corpora.streams import FormatError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text('a"\\'), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


class Slow(io.BytesIO):
    """Gives at most so many bytes at a time."""

    size = 2**20

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.size if size is None else min(size, self.size))


def read(content: bytes, max_bytes: int = 2**20, size: int = 2**20) -> list[Any]:
    stream = Slow(content)
    stream.size = size
    return list(elements(stream, max_bytes))


@given(
    values=st.lists(VALUES),
    indent=st.sampled_from([None, 2]),
    is_ascii=st.booleans(),
    size=st.integers(1, 9),
)
@example(values=[12.5, -1e-9, 12e100, True, -7], indent=None, is_ascii=True, size=1)
def test_an_array_comes_back_however_it_is_cut(
    values: list[Any], indent: int | None, is_ascii: bool, size: int
) -> None:
    content = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode()
    assert read(b"\xef\xbb\xbf \n" + content + b" \n", size=size) == values


def test_one_number_that_python_does_not_hold_costs_only_itself() -> None:
    (row,) = read(b'[{"a": %s, "b": 1e400, "c": -1E400, "d": 7}]' % (b"9" * 5000))
    assert [row[name].reason for name in "abc"] == [
        "a whole number of 5000 digits",
        *["a number that no double holds"] * 2,
    ]
    assert row["d"] == 7
    assert decode('{"a": Infinity}') == ({"a": math.inf}, 15)
    assert isinstance(decode('{"a": Infinity, "b": 1e999}')[0]["b"], Unkept)
    assert read(b"[18446744073709551616]") == [2**64]


def test_half_a_pair_of_surrogates_and_bytes_of_another_encoding_stay_visible() -> None:
    assert read(b'["\\ud83d", "caf\xe9", "\\ud83d\\ude00"]') == [
        "\ud83d",
        "caf\udce9",
        "\U0001f600",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1, 2", "2 elements (a comma or the array's end is missing)"),
        (b"[1, 2,", "2 elements (Expecting value)"),
        (b"[1 2]", "1 elements (a comma or the array's end is missing)"),
        (b"[1] [2]", "1 elements (something comes after the array)"),
        (b"[", "0 elements (Expecting value)"),
        (b'["abc', "0 elements (Unterminated string starting at)"),
        (b"[" * 100_000, "0 elements (lists or objects are nested too deep)"),
        (b'[7, "' + b"x" * 3000, "1 elements (an element of more than 999 bytes)"),
    ],
    ids=range(8),
)
def test_half_an_array_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(FormatError) as refused:
        read(content, 999 if len(content) < 9999 else 2**20)
    assert str(refused.value) == f"it is not JSON after {reason}"


def test_nothing_and_an_empty_array_have_no_elements() -> None:
    assert read(b"") == read(b" \n") == read(b"[]") == read(b" [ ] ") == []
