"""A kept column has one type that holds all its values, and each value comes back."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.arrow_values import FineTime
from e5.corpora.column_types import (
    ARROW_TYPES,
    KINDS_HELD,
    NULL,
    TEXT,
    Kind,
    UntypedText,
    as_column,
    as_named,
    column_type,
    kind_of,
    kinds_of_type,
)
from e5.corpora.documents import Unkept

EDGES = [
    sign * (2**bits + more) for sign in (1, -1) for bits in (53, 63, 64) for more in (-1, 0, 1)
]
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.sampled_from(EDGES)
    | st.floats(allow_nan=False) | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.dates() | st.datetimes()
    | st.datetimes(timezones=st.just(UTC)) | st.just(FineTime("2024-01-02T03:04:05.123456789"))
    | st.just(Unkept("too far"))
)  # fmt: skip
LOOSE = st.sampled_from(
    ["", "7", "-12", "007", "1e5", "2.50", "true", "false", "2024-02-29", "2024-02-30", "snow",
     "9" * 30, "1_000", " 7", "-", "TRUE", "1e400", "1e-400", "1234567890123456789", "-0", "12\n",
     "18446744073709551615", "\N{FULLWIDTH DIGIT ONE}"]
).map(UntypedText)  # fmt: skip


def type_of(values: list[Any]) -> pa.DataType:
    return column_type({kind for value in values if (kind := kind_of(value))})


@given(values=st.lists(PLAIN | LOOSE))
def test_any_mixture_has_a_type_that_holds_it_exactly(values: list[Any]) -> None:
    kind = type_of(values)
    assert ARROW_TYPES[str(kind)] == kind
    kind = TEXT if kind == NULL else kind
    for value, kept in zip(values, as_column(values, kind).to_pylist(), strict=True):
        if value is None or isinstance(value, Unkept):
            assert kept is None
        elif isinstance(value, str) and kind == TEXT:
            assert kept == value
        elif isinstance(value, UntypedText):
            assert kept is None if value == "" else as_column([value], kind).to_pylist() == [kept]
        elif kind == TEXT and isinstance(value, int | Decimal) and not isinstance(value, bool):
            assert Decimal(kept) == value
        elif kind == TEXT:
            assert kept in (
                str(value).lower(),
                json.dumps(value, default=lambda time: time.isoformat()).strip('"'),
            )
        elif isinstance(value, Decimal) and isinstance(kept, float):
            assert Decimal(repr(kept)) == value
        elif type(value) is date and isinstance(kept, datetime):
            assert kept == datetime(value.year, value.month, value.day)
        else:
            assert kept == value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-20", ""], pa.int64()), (["1", "2.5"], pa.float64()), (["007", "1"], pa.string()),
        (["true", "false"], pa.bool_()), (["true", "1"], pa.string()),
        (["2024-02-29", ""], pa.date32()), (["2024-02-30"], pa.string()), ([""], pa.null()),
        (["1", "snow"], pa.string()), (["9" * 30], pa.string()),
        (["1234567890123456789"], pa.int64()),
        (["18446744073709551615"], pa.uint64()), (["18446744073709551615", "-1"], pa.string()),
        (["9007199254740993", "0.5"], pa.string()), (["9007199254740992", "0.5"], pa.float64()),
        (["1e400"], pa.string()), (["1e-400"], pa.string()), (["0e5", "0.0"], pa.float64()),
        (["1.10", "1E5"], pa.float64()), (["\N{ARABIC-INDIC DIGIT ONE}"], pa.string()),
        (["NaN", "1.5"], pa.string()), (["-0"], pa.string()),
    ],
)  # fmt: skip
def test_a_csv_column_is_what_all_its_values_look_like(
    values: list[str], expected: pa.DataType
) -> None:
    assert type_of(list(map(UntypedText, values))) == expected


@given(kinds=st.sets(st.sampled_from(Kind)), more=st.sets(st.sampled_from(Kind)))
def test_a_type_holds_what_it_is_chosen_for(kinds: set[Kind], more: set[Kind]) -> None:
    assert kinds <= KINDS_HELD[column_type(kinds)]
    assert KINDS_HELD[TEXT] >= kinds | more
    both, order = column_type(kinds | more), list(KINDS_HELD)
    assert order.index(both) >= order.index(column_type(kinds))  # more values, no narrower type


@pytest.mark.parametrize(
    ("kinds", "types"),
    [
        ({Kind.SMALL}, [pa.int8(), pa.uint32(), pa.uint64(), pa.decimal128(38, 0)]),
        ({Kind.NUMBER}, [pa.float16(), pa.float32(), pa.decimal32(5, 2), pa.decimal256(70, 5)]),
        ({Kind.BOOLEAN}, [pa.bool_(), pa.bool8()]),
        ({Kind.DATE}, [pa.date32(), pa.date64()]),
        ({Kind.TIME}, [pa.timestamp("ns"), pa.timestamp("s")]),
        ({Kind.TIME_UTC}, [pa.timestamp("ns", "UTC"), pa.timestamp("s", "Mars/Olympus")]),
        ({Kind.TEXT}, [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.uuid(),
                       pa.json_(), pa.time32("s"), pa.time64("ns"), pa.binary_view(),
                       pa.opaque(pa.string(), "x", "y"), pa.dictionary(pa.int8(), pa.string())]),
        (set(), [pa.null()]),
        (None, [pa.list_(pa.int8()), pa.struct([]), pa.map_(pa.string(), pa.int8()),
                pa.duration("s"), pa.binary(16), pa.month_day_nano_interval(),
                pa.fixed_shape_tensor(pa.float32(), [2]), pa.list_view(pa.int8())]),
    ],
    ids=str,
)  # fmt: skip
def test_parquet_s_types_are_kept_or_refused(
    kinds: set[Kind] | None, types: list[pa.DataType]
) -> None:
    assert [kinds_of_type(kind) for kind in types] == [kinds] * len(types)


def test_a_value_that_a_type_cannot_hold_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds text where int64 is kept"):
        as_column(["snow"], pa.int64())
    now = datetime(2024, 1, 2, tzinfo=UTC)
    assert as_column([now], pa.timestamp("us", "UTC")).to_pylist() == [now]
    assert as_column([date(2024, 1, 2)], pa.timestamp("us")).to_pylist() == [datetime(2024, 1, 2)]


@pytest.mark.parametrize(
    ("name", "kept", "unkept"),
    [
        ("text", [(UntypedText("1.10"), "1.10"), (UntypedText("1E5"), "1E5"), (UntypedText(""), ""),
                  (7, "7"), (1.5, "1.5"), (True, "true"), (date(2024, 1, 2), "2024-01-02"),
                  (Decimal("1.50"), "1.50"), (b"a", "a"), (["a", None, b"b"], '["a", null, "b"]'),
                  ({"a": Decimal("1.50"), "b": datetime(2024, 1, 2)},
                   '{"a": "1.50", "b": "2024-01-02T00:00:00"}'), ("\xe9", "\xe9")],
         [b"\xff", ["\ud83d"], [b"\xff"], {(1, 2): 3}]),
        ("integer", [(UntypedText("7"), 7), ("7", 7), (5.0, 5), (Decimal("5.00"), 5), ("", None)],
         ["N/A", "7.5", 7.5, 2**63, True, [1], float("nan"), date(2024, 1, 2)]),
        ("number", [(UntypedText("1.10"), 1.1), ("7", 7.0), (7, 7.0), (Decimal("1.50"), 1.5)],
         ["N/A", 2**53 + 1, Decimal("0.12345678901234567890"), True, "1e400"]),
        ("boolean", [(UntypedText("true"), True), (False, False)], ["True", 1, "1"]),
        ("date", [("2024-01-02", date(2024, 1, 2)), (date(1, 1, 1), date(1, 1, 1))],
         ["2024-02-30", datetime(2024, 1, 2), 20240102]),
    ],
    ids=["text", "integer", "number", "boolean", "date"],
)  # fmt: skip
def test_a_named_type_holds_what_is_such_a_value(
    name: str, kept: list[tuple[Any, Any]], unkept: list[Any]
) -> None:
    for value, expected in kept:
        found = as_named(value, name)
        assert (found, type(found)) == (expected, type(expected))
    for value in unkept:
        assert as_named(value, name).reason.endswith(f", which the type {name} does not hold")
    far = Unkept("too far")
    assert (as_named(None, name), as_named(far, name)) == (None, far)
