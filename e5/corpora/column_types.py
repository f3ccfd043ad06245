"""The Arrow types of kept columns: values from any kind of file -> one type that holds all of them.

Parquet brings types; JSON's are read off its values. A CSV file has only text: a column of which
all values look like whole numbers, numbers, booleans or dates becomes one. Values of different
types make a column of text. Knows nothing of rows or files.
"""

import json
import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import pyarrow as pa

INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")

NULL, BOOL, INT64, DOUBLE, DATE32 = pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.date32()
TEXT, TIME, TIME_UTC = pa.string(), pa.timestamp("us"), pa.timestamp("us", "UTC")


class UntypedText(str):
    """Text of a file that has no types: it may stand for something else, and "" for nothing."""

    __slots__ = ()


def type_of_value(value: Any) -> pa.DataType:
    """The type of one value, as a reader gives it.

    Example:
        >>> type_of_value(UntypedText("2024")), type_of_value("2024")
        (DataType(int64), DataType(string))
    """
    match value:
        case None:
            return NULL
        case bool():
            return BOOL
        case int():
            return INT64 if -(2**63) <= value < 2**63 else TEXT
        case float():
            return DOUBLE
        case datetime():  # which is a date
            return TIME if value.tzinfo is None else TIME_UTC
        case date():
            return DATE32
        case UntypedText():
            return _kind_of_text(value)
    return TEXT


def kept_type(kind: pa.DataType) -> pa.DataType | None:
    """What values of a Parquet column are kept as; None for those that cannot be.

    Example:
        >>> kept_type(pa.int16()), kept_type(pa.list_(pa.int16()))
        (DataType(int64), None)
    """
    types = pa.types
    if types.is_dictionary(kind):
        return kept_type(kind.value_type)
    if types.is_timestamp(kind):
        return TIME if kind.tz is None else TIME_UTC
    tests: Iterable[tuple[Any, pa.DataType]] = (
        (types.is_null, NULL),
        (types.is_boolean, BOOL),
        (types.is_uint64, TEXT),  # beyond int64
        (types.is_integer, INT64),
        (types.is_floating, DOUBLE),
        (types.is_decimal, DOUBLE),
        (types.is_date, DATE32),
        (types.is_string, TEXT),
        (types.is_large_string, TEXT),
        (types.is_string_view, TEXT),
        (types.is_binary, TEXT),
        (types.is_large_binary, TEXT),
        (types.is_binary_view, TEXT),
    )
    return next((kept for test, kept in tests if test(kind)), None)


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that holds the values of both.

    Example:
        >>> common_type(pa.int64(), pa.float64()), common_type(pa.int64(), pa.bool_())
        (DataType(double), DataType(string))
    """
    if first == second or second == NULL:
        return first
    if first == NULL:
        return second
    pair = {first, second}
    if pair == {INT64, DOUBLE}:
        return DOUBLE
    if pair == {DATE32, TIME}:
        return TIME
    return TEXT


def as_column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array of a type that `common_type` gave.

    Raises:
        ValueError: for a value that the type cannot hold.
    """
    return pa.array([_as(value, kind) for value in values], kind)


def type_from_name(name: str) -> pa.DataType:
    """The type of a name.

    Example:
        >>> type_from_name("timestamp[us, tz=UTC]")
        TimestampType(timestamp[us, tz=UTC])
    """
    known = (NULL, BOOL, INT64, DOUBLE, DATE32, TEXT, TIME, TIME_UTC)
    return {str(kind): kind for kind in known}[name]


def _kind_of_text(value: str) -> pa.DataType:
    if not value:
        return NULL
    if INTEGER.fullmatch(value):
        return INT64
    if NUMBER.fullmatch(value):
        return DOUBLE
    if value in ("true", "false"):
        return BOOL
    if DATE.fullmatch(value) and _is_date(value):
        return DATE32
    return TEXT


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:  # the 31st of February
        return False
    return True


def _as(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if kind == TEXT:
        if isinstance(value, str):
            return str(value)
        return value.isoformat() if isinstance(value, date) else json.dumps(value)
    if isinstance(value, UntypedText):
        value = _meant(value)
    if value is None or type_of_value(value) == kind:
        return value
    if kind == DOUBLE and isinstance(value, int):
        return float(value)
    if kind == TIME and type(value) is date:
        return datetime(value.year, value.month, value.day)
    raise ValueError(f"holds {type_of_value(value)} where {kind} is kept")


def _meant(value: UntypedText) -> Any:
    """What text stands for."""
    kind = _kind_of_text(value)
    if kind == DATE32:
        return date.fromisoformat(value)
    readers: dict[pa.DataType, Any] = {NULL: lambda _: None, BOOL: "true".__eq__}
    return (readers | {INT64: int, DOUBLE: float, TEXT: str})[kind](value)
