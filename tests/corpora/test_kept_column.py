"""Every kept value is found as it was, is null and counted, or is refused before any work."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import dead_letters, mirror, read_shards, write_rows

from e5.corpora.column_types import Kind, UntypedText, column_type
from e5.corpora.corpus import Corpus
from e5.corpora.documents import Unkept
from e5.corpora.index import Index
from e5.corpora.kept_column import KeptColumn
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.synchronize import Report
from e5.embedder import Embedder
from e5.errors import InputError

# Of each column: its values in a Parquet file; of which type they are kept, and as which values;
# and a condition that only the first fulfils.
COLUMNS: dict[str, tuple[pa.Array, pa.DataType, list[Any], str]] = {
    "far": (
        pa.array([datetime(9999, 12, 31), datetime(1, 1, 1)], pa.timestamp("us")),
        pa.timestamp("us"),
        [datetime(9999, 12, 31), datetime(1, 1, 1)],
        "far > timestamp '9000-01-01'",
    ),
    "fine": (
        pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
        pa.string(),
        ["1970-01-01T00:00:00.000000001+00:00", None],
        "fine > '1970'",
    ),
    "exact": (
        pa.array([10**18, 0], pa.timestamp("ns", "Mars/Olympus")),
        pa.timestamp("us", "UTC"),
        [datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)],
        "exact = timestamp '2001-09-09 01:46:40'",
    ),
    "old": (
        pa.array([date(1, 1, 1), date(9999, 12, 31)]),
        pa.date32(),
        [date(1, 1, 1), date(9999, 12, 31)],
        "old < date '1000-01-01'",
    ),
    "hour": (pa.array([9 * 3600, 0], pa.time32("s")), pa.string(), ["09:00:00", "00:00:00"],
             "hour > '08:30'"),
    "price": (
        pa.array([Decimal("19.99"), Decimal("-1.50")], pa.decimal128(38, 2)),
        pa.float64(),
        [19.99, -1.5],
        "price = 19.99",
    ),
    "long": (
        pa.array([Decimal("12345678901234567890.12"), Decimal("2.50")]),
        pa.string(),
        ["12345678901234567890.12", "2.50"],
        "long = '12345678901234567890.12'",
    ),
    "count": (pa.array([Decimal(7), Decimal(2**63 - 1)], pa.decimal128(38, 0)), pa.int64(),
              [7, 2**63 - 1], "count < 8"),
    "hash": (pa.array([2**64 - 1, 0], pa.uint64()), pa.uint64(), [2**64 - 1, 0],
             "hash = 18446744073709551615"),
    "half": (pa.array([1.5, None], pa.float16()), pa.float64(), [1.5, None], "half = 1.5"),
    "key": (pa.array([UUID(int=5).bytes, None], pa.uuid()), pa.string(), [str(UUID(int=5)), None],
            f"key = '{UUID(int=5)}'"),
    "meta": (pa.array(['{"a": 1.10}', None], pa.json_()), pa.string(), ['{"a": 1.10}', None],
             "meta like '%1.10%'"),
    "flag": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), pa.bool_(),
             [True, False], "flag"),
    "lang": (pa.array(["en", "de"]).dictionary_encode(), pa.string(), ["en", "de"], "lang = 'en'"),
    "raw": (pa.array([b"abc", b"\xff"]), pa.string(), ["abc", None], "raw = 'abc'"),
    "tags": (pa.array([["a", "b"], None]), pa.string(), ['["a", "b"]', None], "tags is not null"),
    "empty": (pa.nulls(2), pa.string(), [None, None], "empty is null and lang = 'en'"),
}  # fmt: skip


def embedded(
    folder: Path, embedder: Embedder, keep: tuple[str, ...], **named_types: str
) -> tuple[Report, pa.Table]:
    corpus = Corpus(str(folder / "in"), keep=keep, named_types=named_types)
    report = mirror(corpus, ShardFolder(str(folder / "out")), embedder)
    return report, read_shards(folder / "out").sort_by("id")


def test_each_type_of_parquet_is_found_as_it_was(tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "in").mkdir()
    table = {"text": ["snow is water", "water falls"]}
    columns = {name: array for name, (array, *_) in COLUMNS.items()}
    pq.write_table(pa.table(table | columns), tmp_path / "in/a.parquet")
    report, kept = embedded(tmp_path, embedder, tuple(COLUMNS), tags="text")
    assert (report.documents, dead_letters(tmp_path / "out")) == (2, {})
    assert report.unkept == [
        "1 values of raw cannot be kept, and are null; "
        "the first is in a.parquet:1: bytes that are not UTF-8"
    ]
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    hits = {hit.id: hit.values for hit in index.find(embedder, "snow")}
    for name, (_, kind, values, where) in COLUMNS.items():
        assert (name, kept[name].type) == (name, kind)
        assert (name, kept[name].to_pylist()) == (name, values)
        found = [hits[f"a.parquet:{i}"][name] for i in range(2)]
        assert (name, found, list(map(type, found))) == (name, values, list(map(type, values)))
        if name == "exact":  # Arrow's own conversion needs a database of time zones
            assert found[0].tzinfo is UTC
        (hit,) = index.find(embedder, "snow", where=where)
        assert (name, hit.id) == (name, "a.parquet:0")


@pytest.mark.parametrize(
    ("name", "lines", "kept", "sentence"),
    [
        ("jsonl", ["9007199254740993", "-9223372036854775808"], [2**53 + 1, -(2**63)], None),
        ("json", ["1", "18446744073709551615"], [1, 2**64 - 1], None),
        ("json", ["1", "18446744073709551616"], ["1", str(2**64)], None),
        ("jsonl", ["9007199254740993", "1.5"], ["9007199254740993", "1.5"], None),
        ("jsonl", ["1.5", "9" * 5000], [1.5, None], "a whole number of 5000 digits"),
        ("json", ["1e400", "1.5"], [None, 1.5], "a number that no double holds"),
        ("jsonl", ["-Infinity", "1.5"], [float("-inf"), 1.5], None),
        ("json", ['"\\ud83d"', '"a"'], [None, "a"], "text that is not valid Unicode"),
        ("jsonl", ['"caf\udce9"', '"a"'], [None, "a"], "text that is not valid Unicode"),
        ("csv", ["caf\udce9", "a"], [None, "a"], "text that is not valid Unicode"),
        ("csv", ["1234567890123456789", ""], [1234567890123456789, None], None),
        ("csv", ["1" * 30, "2.5"], ["1" * 30, "2.5"], None),
        ("jsonl", ["true", "1"], ["true", "1"], None),
    ],
)
def test_a_value_of_a_text_file_is_exact_or_null_and_costs_no_vector(
    name: str,
    lines: list[str],
    kept: list[Any],
    sentence: str | None,
    tmp_path: Path,
    embedder: Embedder,
) -> None:
    rows = [f'{{"text": "snow", "v": {value}}}' for value in lines]
    text = {
        "json": f"[{', '.join(rows)}]",
        "jsonl": "\n".join(rows),
        "csv": "\n".join(["text,v", *(f"snow,{value}" for value in lines)]),
    }
    (tmp_path / "in").mkdir()
    (tmp_path / f"in/a.{name}").write_bytes(text[name].encode(errors="surrogateescape"))
    report, table = embedded(tmp_path, embedder, ("v",))
    assert (table["v"].to_pylist(), dead_letters(tmp_path / "out")) == (kept, {})
    at = f"a.{name}:{kept.index(None) if None in kept else 0}"
    expected = f"1 values of v cannot be kept, and are null; the first is in {at}: {sentence}"
    assert report.unkept == ([expected] if sentence else [])


def test_a_named_type_is_that_of_the_column(tmp_path: Path, embedder: Embedder) -> None:
    rows = [("1.10", "2024"), ("1E5", "N/A"), ("2", "")]
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in/a.csv", [{"text": "a", "v": v, "year": year} for v, year in rows])
    report, table = embedded(tmp_path, embedder, ("v", "year"), v="text", year="integer")
    assert table["v"].to_pylist() == ["1.10", "1E5", "2"]
    assert table["year"].to_pylist() == [2024, None, None]
    assert [sentence.partition(";")[0] for sentence in report.unkept] == [
        "1 values of year cannot be kept, and are null"
    ]
    # A folder keeps its types, whether or not they are named again, but takes no others.
    corpus = Corpus(str(tmp_path / "in"), keep=("v", "year"), named_types={"v": "number"})
    with pytest.raises(InputError, match=r"^keep: received 'v:number'; .*out has string; name an"):
        mirror(corpus, ShardFolder(str(tmp_path / "out")), embedder)
    write_rows(tmp_path / "in/b.csv", [{"text": "b", "v": "3.0", "year": "2025"}])
    _, table = embedded(tmp_path, embedder, ("v", "year"), year="integer")
    assert table["v"].to_pylist() == ["1.10", "1E5", "2", "3.0"]


def test_a_folder_s_type_is_not_left_for_values_that_it_does_not_hold(
    tmp_path: Path, embedder: Embedder
) -> None:
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in/a.jsonl", [{"text": "a", "n": 1.5}])
    embedded(tmp_path, embedder, ("n",))
    write_rows(tmp_path / "in/b.jsonl", [{"text": "b", "n": 2**53 + 1}])
    now = r"'n', which now holds whole numbers above 2\^53; the folder has double; name another f"
    with pytest.raises(InputError, match=rf"^keep: received {now}"):
        embedded(tmp_path, embedder, ("n",))


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (pa.duration("s"), "name columns of text, numbers, booleans, dates or times"),
        (pa.binary(16), "name columns of text, numbers, booleans, dates or times"),
        (pa.list_(pa.int8()), "keep it as JSON by v:text, or leave it out"),
        (pa.struct([(f"field {i}", pa.int8()) for i in range(99)]), "keep it as JSON by v:text,"),
        (pa.map_(pa.string(), pa.int8()), "keep it as JSON by v:text, or leave it out"),
    ],
    ids=range(5),
)
def test_other_types_are_refused_in_a_sentence(kind: pa.DataType, remedy: str) -> None:
    with pytest.raises(InputError) as refused:
        KeptColumn("v").add_type(kind, "a.parquet")
    sentence = str(refused.value)
    assert sentence.startswith(f"keep: received 'v', which holds {str(kind)[:12]}")
    assert f"in a.parquet; {remedy}" in sentence
    assert len(sentence) < 200
    named = KeptColumn("v", "text")
    if pa.types.is_nested(kind):
        named.add_type(kind, "a.parquet")
        assert named.kinds == {Kind.TEXT}
    else:
        with pytest.raises(InputError, match="name columns of text"):
            named.add_type(kind, "a.parquet")


@pytest.mark.parametrize(
    ("values", "remarks"),
    [
        ([1, 2.5, None, Unkept("far")], []),
        (["a", "b"], []),
        ([True, 1, "a"], ["v is kept as text, because it holds booleans, text, whole numbers"]),
        ([2**70], ["v is kept as text, because it holds very long numbers"]),
        ([UntypedText("2.5"), UntypedText("3")], []),
        ([UntypedText("2.50"), UntypedText("1E5")],
         ["v is kept as numbers, 2.50 as 2.5; v:text keeps it as it is written"]),
        ([UntypedText("2.50"), UntypedText("a")],
         ["v is kept as text, because it holds numbers, text"]),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_type_that_may_surprise_is_said(values: list[Any], remarks: list[str]) -> None:
    column = KeptColumn("v")
    for i, value in enumerate(values):
        column.add(value, "a.csv", i)
    assert column.remarks(column_type(column.kinds)) == remarks
    assert column.remarks(pa.bool_()) == []
    if Kind.TEXT not in column.kinds and Kind.WIDE not in column.kinds:
        assert column.remarks(pa.string()) == []  # of a folder that was made with v:text
