"""The Arrow types of kept columns: values from any kind of file -> one type that holds all of them.

Values of a CSV file are text: a column of which all look like whole numbers, numbers, booleans or
dates becomes one of these. Values of different types make a column of text.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime
from typing import Any

import pyarrow as pa

INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
PADDED_INTEGER = re.compile(r"-?\d{1,18}")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
DATE = re.compile(r"\d{4}-\d\d-\d\d")

NULL, BOOL, INT64, DOUBLE, DATE32 = pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.date32()
TEXT, TIME, TIME_UTC = pa.string(), pa.timestamp("us"), pa.timestamp("us", "UTC")

_TYPES = (NULL, BOOL, INT64, DOUBLE, DATE32, TEXT, TIME, TIME_UTC)
ARROW_TYPES = {str(kind): kind for kind in _TYPES}
# What the types of Parquet columns are kept as, by their names.
KEPT_TYPES = {"null": NULL, "bool": BOOL} | {
    name: kept
    for names, kept in (
        ("int8 int16 int32 int64 uint8 uint16 uint32", INT64),
        ("halffloat float double", DOUBLE),
        ("date32[day] date64[ms]", DATE32),
        ("uint64", TEXT),  # beyond int64
        ("string large_string string_view binary large_binary binary_view", TEXT),
    )
    for name in names.split()
}


class UntypedText(str):
    """Text of a file without types: it may stand for another value, and "" for none."""

    __slots__ = ()


class FolderText(UntypedText):
    """The value in the name of a folder (`month=01`), where whole numbers may begin with zeros."""

    __slots__ = ()


def type_of_value(value: Any) -> pa.DataType:
    """The type of one value that a reader gave: int64 for `UntypedText("2024")`."""
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
            return _parse(value)[0]
    return TEXT


def kept_type(kind: pa.DataType) -> pa.DataType | None:
    """The type as which the values of a Parquet column are kept; None if they cannot be."""
    if pa.types.is_dictionary(kind):
        return kept_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return TIME if kind.tz is None else TIME_UTC
    return DOUBLE if pa.types.is_decimal(kind) else KEPT_TYPES.get(str(kind))


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that holds the values of both, such as double for int64 and double."""
    if first == second or NULL in (first, second):
        return first if second == NULL else second
    pairs = {frozenset((INT64, DOUBLE)): DOUBLE, frozenset((DATE32, TIME)): TIME}
    return pairs.get(frozenset((first, second)), TEXT)


def as_column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array of a type that `common_type` gave; a ValueError if it cannot be."""
    return pa.array([_converted(value, kind) for value in values], kind)


def _converted(value: Any, kind: pa.DataType) -> Any:
    if kind == TEXT and value is not None:
        if isinstance(value, str):
            return str(value)
        return value.isoformat() if isinstance(value, date) else json.dumps(value)
    if isinstance(value, UntypedText):
        value = _parse(value)[1]
    if value is None or type_of_value(value) == kind:
        return value
    if kind == DOUBLE and isinstance(value, int):
        return float(value)
    if kind == TIME and type(value) is date:
        return datetime(value.year, value.month, value.day)
    raise ValueError(f"holds {type_of_value(value)} where {kind} is kept")


def _parse(text: UntypedText) -> tuple[pa.DataType, Any]:
    """The type and the value of what a text stands for."""
    if not text:
        return NULL, None
    if (PADDED_INTEGER if isinstance(text, FolderText) else INTEGER).fullmatch(text):
        return INT64, int(text)
    if NUMBER.fullmatch(text):
        return DOUBLE, float(text)
    if text in ("true", "false"):
        return BOOL, text == "true"
    if DATE.fullmatch(text):
        with suppress(ValueError):  # the 31st of February
            return DATE32, date.fromisoformat(text)
    return TEXT, str(text)
