"""The types of kept columns: values from any kind of file -> one Arrow type that holds all of them.

Values of a CSV file are text: a column of which all look like whole numbers, numbers, booleans or
dates becomes one of these. A column whose values no other type holds exactly becomes text.
"""

import json
import math
import re
from collections.abc import Iterable, Set
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pyarrow as pa

from e5.corpora.arrow_values import FineTime
from e5.corpora.documents import Unkept
from e5.errors import quoted

PADDED_WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)

WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,19}", re.ASCII)
NUMBER = re.compile(r"-?(0|[1-9]\d*)(?=[.eE])(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

NULL, BOOL, INT64, UINT64 = pa.null(), pa.bool_(), pa.int64(), pa.uint64()
DOUBLE, DATE32, TEXT = pa.float64(), pa.date32(), pa.string()
TIME, TIME_UTC = pa.timestamp("us"), pa.timestamp("us", "UTC")


class Kind(StrEnum):
    """What values are, as far as the type of their column depends on it."""

    BOOLEAN = "booleans"
    SMALL = "whole numbers"  # up to 2^53, as large as a double holds all of them
    NEGATIVE = "whole numbers below 0"  # down to -2^53
    LARGE = "whole numbers above 2^53"
    LARGE_NEGATIVE = "whole numbers below -2^53"
    HUGE = "whole numbers above 2^63"  # below 2^64
    NUMBER = "numbers"
    DATE = "dates"
    TIME = "times"
    TIME_UTC = "times with a zone"
    FINE_TIME = "times with nanoseconds"
    WIDE = "very long numbers"
    TEXT = "text"


# The kinds that each type holds exactly. Of several types, the first is used.
KINDS_HELD: dict[pa.DataType, Set[Kind]] = {
    NULL: frozenset(),
    BOOL: {Kind.BOOLEAN},
    INT64: {Kind.SMALL, Kind.NEGATIVE, Kind.LARGE, Kind.LARGE_NEGATIVE},
    UINT64: {Kind.SMALL, Kind.LARGE, Kind.HUGE},
    DOUBLE: {Kind.SMALL, Kind.NEGATIVE, Kind.NUMBER},
    DATE32: {Kind.DATE},
    TIME: {Kind.DATE, Kind.TIME},
    TIME_UTC: {Kind.TIME_UTC},
    TEXT: frozenset(Kind),
}
ARROW_TYPES = {str(kind): kind for kind in KINDS_HELD}
# The types that a caller may name.
NAMED_TYPES = {"text": TEXT, "integer": INT64, "number": DOUBLE, "boolean": BOOL, "date": DATE32}
KINDS_BY_TYPE = {
    name: kind
    for names, kind in (
        ("bool extension<arrow.bool8>", Kind.BOOLEAN),
        ("int8 int16 int32 int64 uint8 uint16 uint32 uint64", Kind.SMALL),
        ("halffloat float double", Kind.NUMBER),
        ("date32[day] date64[ms]", Kind.DATE),
        ("time32[s] time32[ms] time64[us] time64[ns] extension<arrow.uuid>", Kind.TEXT),
        ("string large_string string_view binary large_binary binary_view", Kind.TEXT),
    )
    for name in names.split()
}


KINDS_BY_CLASS: dict[type, Kind] = {
    str: Kind.TEXT,
    FineTime: Kind.FINE_TIME,
    bool: Kind.BOOLEAN,
    float: Kind.NUMBER,
    date: Kind.DATE,
}


class UntypedText(str):
    """Text of a file without types: it may stand for another value, and "" for none."""

    __slots__ = ()


class FolderText(UntypedText):
    """The value in the name of a folder (`month=01`), where whole numbers may begin with zeros."""

    __slots__ = ()


def kinds_of_type(kind: pa.DataType) -> set[Kind] | None:
    """What the values of a Parquet column are at least; None for a type that cannot be kept."""
    if found := KINDS_BY_TYPE.get(str(kind)):
        return {found}
    if pa.types.is_dictionary(kind):
        return kinds_of_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return kinds_of_type(kind.storage_type)
    if pa.types.is_timestamp(kind):
        return {Kind.TIME if kind.tz is None else Kind.TIME_UTC}
    if pa.types.is_decimal(kind):
        return {Kind.NUMBER if kind.scale > 0 else Kind.SMALL}
    return set() if kind == NULL else None


def kind_of(value: Any) -> Kind | None:
    """The kind of a value from a reader: `Kind.SMALL` for `UntypedText("7")`, None for null."""
    if found := KINDS_BY_CLASS.get(type(value)):
        return found
    match value:
        case UntypedText():
            return _parse(value)[0]
        case int():
            return _kind_of_whole(value)
        case datetime():
            return Kind.TIME if value.tzinfo is None else Kind.TIME_UTC
        case Decimal():
            if value == (whole := int(value)):
                return _kind_of_whole(whole)
            return Kind.NUMBER if Decimal(repr(float(value))) == value else Kind.WIDE
    if value is None or isinstance(value, Unkept):
        return None
    raise TypeError(f"no kept value: {type(value).__name__}")


def column_type(kinds: Set[Kind]) -> pa.DataType:
    """The type that holds all values of these kinds, such as double for numbers; null for none."""
    return next(kind for kind, held in KINDS_HELD.items() if kinds <= held)


def as_column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Values as an array of a type that `column_type` gave; a ValueError if one does not fit."""
    return pa.array([_converted(value, kind) for value in values], kind)


def as_named(value: Any, name: str) -> Any:
    """A value as the type of this name in `NAMED_TYPES`, or an `Unkept`. As text, lists are JSON.

    Example:
        >>> as_named("7", "number"), as_named("seven", "number").reason
        (7.0, '"seven", which the type number does not hold')
        >>> as_named(["a", 7], "text")
        '["a", 7]'
    """
    kind = NAMED_TYPES[name]
    if type(value) is str and kind != TEXT:
        value = UntypedText(value)
    try:
        converted = _converted(value, kind)
        if isinstance(converted, str):
            converted.encode()
    except (TypeError, ValueError, RecursionError):
        shown = quoted(value) if not isinstance(value, date | Decimal) else _as_text(value)
        return Unkept(f"{shown}, which the type {name} does not hold")
    return value if isinstance(value, Unkept) else converted


def _converted(value: Any, kind: pa.DataType) -> Any:
    if value is None or isinstance(value, Unkept):
        return None
    if kind == TEXT:
        return _as_text(value)
    if isinstance(value, UntypedText):
        value = _parse(value)[1]
    if kind == INT64 and isinstance(value, float) and value.is_integer():
        value = int(value)  # where a caller named the type
    found = kind_of(value)
    if found is None:
        return None
    if found not in KINDS_HELD[kind]:
        raise ValueError(f"holds {found} where {kind} is kept")
    if kind in (INT64, UINT64, DOUBLE):
        return float(value) if kind == DOUBLE else int(value)
    if kind == TIME and found == Kind.DATE:
        return datetime(value.year, value.month, value.day)
    return value


def _as_text(value: Any) -> str:
    match value:
        case str():
            return str(value)
        case date():
            return value.isoformat()
        case Decimal():
            return f"{value:f}"
        case bytes():
            return value.decode()
        case bool() | int() | float() | list() | tuple() | dict():
            return json.dumps(value, ensure_ascii=False, default=_as_text)
    return str(value)


def _kind_of_whole(value: int) -> Kind:
    if value < 0:
        if value < -(2**53):
            return Kind.LARGE_NEGATIVE if value >= -(2**63) else Kind.WIDE
        return Kind.NEGATIVE
    if value > 2**53:
        if value < 2**63:
            return Kind.LARGE
        return Kind.HUGE if value < 2**64 else Kind.WIDE
    return Kind.SMALL


def _parse(text: UntypedText) -> tuple[Kind | None, Any]:
    """The kind and the value of what a text stands for."""
    if not text:
        return None, None
    pattern = PADDED_WHOLE_NUMBER if isinstance(text, FolderText) else WHOLE_NUMBER
    if pattern.fullmatch(text) and (kind := _kind_of_whole(int(text))) != Kind.WIDE:
        return kind, int(text)
    if NUMBER.fullmatch(text):
        number = float(text)
        is_zero = not re.search("[1-9]", re.split("[eE]", text)[0])
        if abs(number) != math.inf and is_zero == (number == 0):
            return Kind.NUMBER, number
    if text in ("true", "false"):
        return Kind.BOOLEAN, text == "true"
    if DATE.fullmatch(text):
        with suppress(ValueError):  # the 31st of February
            return Kind.DATE, date.fromisoformat(text)
    return Kind.TEXT, str(text)
