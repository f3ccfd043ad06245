"""A kept column has one type that holds all its values, and each value comes back."""

from datetime import UTC, date, datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.column_types import (
    ARROW_TYPES,
    NULL,
    TEXT,
    UntypedText,
    as_column,
    common_type,
    kept_type,
    type_of_value,
)

PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.dates() | st.datetimes()
)  # fmt: skip
LOOSE = st.sampled_from(
    ["", "7", "-12", "007", "1e5", "2.50", "true", "false", "2024-02-29", "2024-02-30", "snow",
     "9" * 30, "1_000", " 7", "-", "TRUE"]
).map(UntypedText)  # fmt: skip


@given(values=st.lists(PLAIN | LOOSE))
def test_any_mixture_has_a_type_that_holds_it(values: list[Any]) -> None:
    kind = reduce(common_type, map(type_of_value, values), NULL)
    assert ARROW_TYPES[str(kind)] == kind
    kind = TEXT if kind == NULL else kind
    column = as_column(values, kind)
    assert len(column) == len(values)
    for value, kept in zip(values, column.to_pylist(), strict=True):
        if value is None or (value == "" and kind != TEXT and isinstance(value, UntypedText)):
            assert kept is None
        elif kind == TEXT and isinstance(value, str):
            assert kept == value
        elif type_of_value(value) == kind and not isinstance(value, UntypedText):
            assert kept == value or kind == TEXT  # what no number holds
        else:
            assert kept is not None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-20", ""], pa.int64()), (["1", "2.5"], pa.float64()), (["007", "1"], pa.string()),
        (["true", "false"], pa.bool_()), (["true", "1"], pa.string()),
        (["2024-02-29", ""], pa.date32()), (["2024-02-30"], pa.string()), ([""], pa.null()),
        (["1", "snow"], pa.string()), (["9" * 30], pa.float64()),
    ],
)  # fmt: skip
def test_a_csv_column_is_what_all_its_values_look_like(
    values: list[str], expected: pa.DataType
) -> None:
    assert (
        reduce(common_type, (type_of_value(UntypedText(value)) for value in values), NULL)
        == expected
    )


@given(one=PLAIN | LOOSE, two=PLAIN | LOOSE, three=PLAIN | LOOSE)
def test_the_order_of_files_does_not_matter(one: Any, two: Any, three: Any) -> None:
    a, b, c = map(type_of_value, (one, two, three))
    assert common_type(a, b) == common_type(b, a)
    assert common_type(common_type(a, b), c) == common_type(a, common_type(b, c))


def test_parquet_s_types_are_kept_or_refused() -> None:
    for kind, kept in {
        pa.int8(): pa.int64(), pa.uint32(): pa.int64(), pa.float32(): pa.float64(),
        pa.decimal128(5, 2): pa.float64(), pa.date64(): pa.date32(), pa.large_string(): pa.string(),
        pa.dictionary(pa.int8(), pa.string()): pa.string(),
        pa.timestamp("ns"): pa.timestamp("us"),
        pa.timestamp("s", "Europe/Berlin"): pa.timestamp("us", "UTC"),
        pa.list_(pa.int8()): None, pa.struct([]): None, pa.duration("s"): None,
    }.items():  # fmt: skip
        assert kept_type(kind) == kept


def test_a_value_that_a_type_cannot_hold_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds string where int64 is kept"):
        as_column(["snow"], pa.int64())
    now = datetime(2024, 1, 2, tzinfo=UTC)
    assert as_column([now], pa.timestamp("us", "UTC")).to_pylist() == [now]
    assert as_column([date(2024, 1, 2)], pa.timestamp("us")).to_pylist() == [datetime(2024, 1, 2)]
