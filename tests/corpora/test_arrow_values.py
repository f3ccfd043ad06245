"""Values of Arrow columns come as they are, without pandas; one that cannot costs only itself."""

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.arrow_values import FineTime, moment, values_of
from e5.corpora.documents import Unkept

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FAR, NO_DATE = "a time outside the years 1 to 9999", "a date outside the years 1 to 9999"
NOT_UTF_8, NO_HOUR = "bytes that are not UTF-8", "a time of day outside 00:00 to 24:00"


def plain(values: list[Any]) -> list[Any]:
    """With reasons in place of values that are none."""
    return [value.reason if isinstance(value, Unkept) else value for value in values]


@given(
    time=st.datetimes(datetime(1678, 1, 1), datetime(2262, 1, 1)),
    unit=st.sampled_from(list(PER_SECOND)),
    zone=st.sampled_from([None, "UTC", "Europe/Berlin", "+05:30", "Mars/Olympus"]),
)
def test_times_of_every_unit_and_zone_are_the_same_moment(
    time: datetime, unit: str, zone: str | None
) -> None:
    if PER_SECOND[unit] < 10**6:
        time = time.replace(microsecond=0)
    count = round((time - datetime(1970, 1, 1)).total_seconds()) * PER_SECOND[unit]
    if PER_SECOND[unit] >= 10**6:
        seconds = time.replace(microsecond=0) - datetime(1970, 1, 1)
        count = round(seconds.total_seconds()) * PER_SECOND[unit]
        count += time.microsecond * (PER_SECOND[unit] // 10**6)
    column = pa.array([count, None], pa.timestamp(unit, zone))
    expected = time if zone is None else time.replace(tzinfo=UTC)
    found = values_of(column)
    assert found == [expected, None]
    assert found[0].tzinfo is expected.tzinfo


@pytest.mark.parametrize("has_zone", [False, True])
def test_nanoseconds_are_kept_as_text(has_zone: bool) -> None:
    ending = "+00:00" if has_zone else ""
    found = moment(-1, has_zone=has_zone)
    assert found == f"1969-12-31T23:59:59.999999999{ending}"
    assert isinstance(found, FineTime)
    zone = "Asia/Tokyo" if has_zone else None
    column = pa.array([10**18 + 7, 10**18], pa.timestamp("ns", zone))
    fine, exact = values_of(column)
    assert fine == f"2001-09-09T01:46:40.000000007{ending}"
    assert exact.isoformat() == f"2001-09-09T01:46:40{ending}"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([2**63 - 1, -(2**63), 0], pa.timestamp("us")), [FAR, FAR, datetime(1970, 1, 1)]),
        (pa.array([2**63 - 1, -(2**63)], pa.timestamp("s")), [FAR, FAR]),
        (pa.array([253402300799, 253402300800, -62135596800, -62135596801], pa.timestamp("s")),
         [datetime(9999, 12, 31, 23, 59, 59), FAR, datetime(1, 1, 1), FAR]),
        (pa.array([2932896, 2932897, -719162, -719163, 2**31 - 1], pa.date32()),
         [date(9999, 12, 31), NO_DATE, date(1, 1, 1), NO_DATE, NO_DATE]),
        (pa.array([date(1, 1, 1), None], pa.date64()), [date(1, 1, 1), None]),
        (pa.array([0, 86399, 86400, -1], pa.time32("s")),
         ["00:00:00", "23:59:59", NO_HOUR, NO_HOUR]),
        (pa.array([1, None], pa.time64("ns")), ["00:00:00.000000001", None]),
        (pa.array([1, 10**6], pa.time64("us")), ["00:00:00.000001", "00:00:01"]),
        (pa.array([b"abc", b"\xff", None]), ["abc", NOT_UTF_8, None]),
        (pa.array([b"abc", b"\xff"]).view(pa.string()), ["abc", NOT_UTF_8]),
        (pa.array([b"abc", b"\xff"], pa.binary_view()), ["abc", NOT_UTF_8]),
        (pa.array(["abc", None], pa.string_view()), ["abc", None]),
        (pa.array([UUID(int=5).bytes, None], pa.uuid()), [str(UUID(int=5)), None]),
        (pa.array(['{"a": 1.10}'], pa.json_()), ['{"a": 1.10}']),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8())),
         [True, False, None]),
        (pa.array([b"a", b"\xff", b"a"]).dictionary_encode(), ["a", NOT_UTF_8, "a"]),
        (pa.array([Decimal("1.50")], pa.decimal256(70, 2)), [Decimal("1.50")]),
        (pa.array([1.5, None], pa.float16()), [1.5, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [{"k": 1}]),
        (pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())),
         [{"k": 1}, "a value that Python cannot represent"]),
        (pa.nulls(2), [None, None]),
        (pa.array([], pa.timestamp("ns")), []),
    ],
    ids=lambda case: str(case.type) if isinstance(case, pa.Array) else "",
)  # fmt: skip
def test_each_value_is_itself_or_says_what_it_is(column: pa.Array, expected: list[Any]) -> None:
    assert plain(values_of(column)) == expected
    assert plain(values_of(column.slice(1))) == expected[1:]


WITHOUT_PANDAS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "pytz", "tzdata"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import pyarrow as pa
from e5.corpora.arrow_values import values_of

for kind in (pa.timestamp("ns"), pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us", "UTC")):
    print(*values_of(pa.array([10**18 + 1, None], kind)))
    print(*values_of(pa.array([0, None], kind)))
"""


def test_neither_pandas_nor_a_list_of_zones_is_needed() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONTZPATH": ""}
    printed = subprocess.check_output(
        [sys.executable, "-c", WITHOUT_PANDAS], env=environment, text=True
    )
    assert printed.splitlines() == [
        "2001-09-09T01:46:40.000000001 None",
        "1970-01-01 00:00:00 None",
        "2001-09-09T01:46:40.000000001+00:00 None",
        "1970-01-01 00:00:00+00:00 None",
        "None None",  # it is an `Unkept`
        "1970-01-01 00:00:00+00:00 None",
    ]
