"""Columns of Arrow -> lists of Python values, each exact.

pyarrow's own conversion needs pandas for nanoseconds and a database of time zones, and fails for a
whole batch if Python cannot represent one value. Here that value alone becomes an `Unkept`.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa

from e5.corpora.documents import Unkept

TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
BYTES_TYPES = (pa.binary(), pa.large_binary(), pa.binary_view())
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # of each unit
DAY = 24 * 60 * 60 * 10**9  # in nanoseconds
EPOCH = datetime(1970, 1, 1)


class FineTime(str):
    """A time that has nanoseconds, as text in ISO 8601."""

    __slots__ = ()


def values_of(column: pa.Array) -> list[Any]:
    """The values of a column.

    Bytes are the text that they are in UTF-8. Times with a zone are in UTC. UUIDs, times of day and
    times with nanoseconds are text, the latter as in ISO 8601. Decimals are `Decimal`.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return values_of(column.dictionary_decode())
    if isinstance(kind, pa.BaseExtensionType):
        stored = column.storage
        if isinstance(kind, pa.UuidType):
            return _each(lambda value: str(UUID(bytes=value)), stored)
        return values_of(stored.cast(pa.bool_()) if isinstance(kind, pa.Bool8Type) else stored)
    if kind in TEXT_TYPES + BYTES_TYPES:
        return _texts(column.cast(pa.large_binary()))
    if pa.types.is_timestamp(kind):
        size, has_zone = NANOSECONDS[kind.unit], kind.tz is not None
        return _each(lambda count: moment(count * size, has_zone=has_zone), column.view(pa.int64()))
    if pa.types.is_time(kind):
        size, counts = NANOSECONDS[kind.unit], pa.int32() if kind.bit_width == 32 else pa.int64()
        return _each(lambda count: _time_of_day(count * size), column.view(counts))
    if pa.types.is_date(kind):
        return _each(_date, column.cast(pa.date32()).view(pa.int32()))
    options = {"maps_as_pydicts": "strict"} if pa.types.is_nested(kind) else {}  # they cost time
    try:
        values: list[Any] = column.to_pylist(**options)
    except (ValueError, OverflowError, KeyError):
        return [_value(scalar, options) for scalar in column]
    return values


def int96_times(column: pa.Array, seconds: pa.Array) -> list[Any]:
    """Times of 96 bits: of their nanoseconds Arrow reads the last 64, or whole seconds of all."""
    has_zone = column.type.tz is not None

    def time(last: int, second: int) -> Any:
        return moment(second * 10**9 + (last - second * 10**9) % 2**64, has_zone=has_zone)

    counts = (array.view(pa.int64()).to_pylist() for array in (column, seconds))
    return [
        last if last is None else time(last, second) for last, second in zip(*counts, strict=True)
    ]


def moment(nanoseconds: int, *, has_zone: bool) -> datetime | str | Unkept:
    """A time from its distance to 1970; in UTC if it has a zone, and text if it has nanoseconds.

    Example:
        >>> moment(10**18 + 1000, has_zone=False)
        datetime.datetime(2001, 9, 9, 1, 46, 40, 1)
        >>> moment(10**18 + 1, has_zone=True)
        '2001-09-09T01:46:40.000000001+00:00'
    """
    microseconds, rest = divmod(nanoseconds, 1000)
    try:
        found = EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return Unkept("a time outside the years 1 to 9999")
    if has_zone:
        found = found.replace(tzinfo=UTC)
    return FineTime(_iso_format(found, rest)) if rest else found


def _date(days: int) -> date | Unkept:
    try:
        return EPOCH.date() + timedelta(days)
    except OverflowError:
        return Unkept("a date outside the years 1 to 9999")


def _time_of_day(nanoseconds: int) -> str | Unkept:
    if not 0 <= nanoseconds < DAY:
        return Unkept("a time of day outside 00:00 to 24:00")
    microseconds, rest = divmod(nanoseconds, 1000)
    return _iso_format(EPOCH + timedelta(microseconds=microseconds), rest)[11:]


def _iso_format(time: datetime, nanoseconds: int) -> str:
    """A time with up to 999 more nanoseconds in ISO 8601."""
    if not nanoseconds:
        return time.isoformat()
    text = time.isoformat(timespec="microseconds")
    return f"{text[:26]}{nanoseconds:03}{text[26:]}"


def _texts(column: pa.Array) -> list[Any]:
    try:
        texts: list[Any] = column.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        return _each(_text, column)
    return texts


def _text(value: bytes) -> str | Unkept:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return Unkept("bytes that are not UTF-8")


def _value(scalar: pa.Scalar, options: Mapping[str, str]) -> Any:
    try:
        return scalar.as_py(**options)
    except (ValueError, OverflowError, KeyError):
        return Unkept("a value that Python cannot represent")


def _each(convert: Callable[[Any], Any], column: pa.Array) -> list[Any]:
    """Each value that is not null, converted."""
    return [value if value is None else convert(value) for value in column.to_pylist()]
