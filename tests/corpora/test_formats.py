"""Parquet, JSONL and CSV as they are found: what each kind of file does to its rows."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import Row, plan, read_all, write_rows
from hypothesis import strategies as st

from e5.corpora.corpus import Corpus, DeadLetter, Document
from e5.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['say "no"', "two\nlines", "a\r\nb", "old\rmac", "a,b;c\td", "line\u2028separator", "\x85\x0c"]
)


def test_bytes_that_are_no_utf_8_cost_a_csv_only_their_own_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\ngood\nbad \xff\ngood\n")
    first, second, third = read_all(Corpus(str(tmp_path)), 1)
    assert isinstance(first, Document)
    assert second == DeadLetter("a.csv:1", "text: a lone surrogate (character 4)")
    assert third == Document("a.csv:2", "good")


def test_a_csv_s_ragged_rows_lose_nothing_unsaid(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,Hello, world\n2\n3,three,,\n")
    assert read_all(Corpus(str(tmp_path), id_column="id")) == [
        DeadLetter("a.csv:0", "3 values for 2 columns"),
        DeadLetter("2", "text: blank text"),
        Document("3", "three"),
    ]


@pytest.mark.parametrize("rest", ["", "\n", "\n2,good\n3,good\n"])
def test_a_quote_that_is_never_closed_swallows_no_rows(rest: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'id,text\n0,"a\nb"\n1,"unclosed{rest}')
    with pytest.raises(InputError, match=r"^a\.csv: received .*a quote is opened and never closed"):
        plan(Corpus(str(tmp_path)))
    (tmp_path / "a.csv").write_text(f'id,text\n0,"a\nb"\n1,"closed{rest}"')
    assert len(read_all(Corpus(str(tmp_path)))) == 2


def test_blank_lines_are_no_rows_but_keep_the_numbers_right(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n \n{"text": "two"}')
    found = read_all(Corpus(str(tmp_path)), 2)
    assert found == [Document("a.jsonl:1", "one"), Document("a.jsonl:3", "two")]


def test_a_field_may_be_larger_than_the_csv_module_s_own_limit(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", [{"text": "x" * 200_000}, {"text": "neighbour"}])
    found = read_all(Corpus(str(tmp_path)))
    assert [len(row.text) for row in found if isinstance(row, Document)] == [200_000, 9]


def test_a_column_that_only_some_rows_of_jsonl_have_is_there(tmp_path: Path) -> None:
    rows: list[Row] = [{"text": "one"}] * 500 + [{"text": "two", "title": "The"}]
    write_rows(tmp_path / "a.jsonl", rows)
    assert read_all(Corpus(str(tmp_path), ("title", "text")), 400)[-1].id == "a.jsonl:500"


def test_blank_lines_before_a_csv_s_head_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n\ntext\none\n\ntwo\n")
    found = read_all(Corpus(str(tmp_path)), 1)
    assert found == [Document("a.csv:0", "one"), Document("a.csv:2", "two")]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.parquet"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / name, [{"text": f"row {i}"} for i in range(1000)])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"^{name}: received what cannot be read"):
        plan(Corpus(str(tmp_path)))


@pytest.mark.parametrize(
    "column", [pa.array([b"bytes"]), pa.array([7]), pa.array([["a", "list"]]), pa.array([{"a": 1}])]
)
def test_a_parquet_column_that_cannot_hold_text_is_refused_at_once(
    column: pa.Array, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"^text_columns: received 'text', which holds .* a\."):
        plan(Corpus(str(tmp_path)))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()]
)
def test_parquet_s_kinds_of_text_are_text(kind: pa.DataType, tmp_path: Path) -> None:
    texts = [None if kind == pa.null() else "snow"] * 2
    pq.write_table(pa.table({"text": pa.array(texts, kind)}), tmp_path / "a.parquet")
    expected = DeadLetter("a.parquet:0", "text: blank text")
    found = read_all(Corpus(str(tmp_path)))
    assert found[0] == (expected if kind == pa.null() else Document("a.parquet:0", "snow"))


def test_parquet_text_that_is_no_utf_8_costs_only_its_own_row(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"bad \xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    first, second, third = read_all(Corpus(str(tmp_path)))
    assert (first, third) == (Document("a.parquet:0", "good"), Document("a.parquet:2", "fine"))
    assert isinstance(second, DeadLetter)
    assert second.id == "a.parquet:1"
    assert second.reason.startswith("holds what cannot be read")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"id","text"\r\n1,"one\r\ntwo"\r\n2,three\r\n')
    found = read_all(Corpus(str(tmp_path), id_column="id"), 1)
    assert found == [Document("1", "one\r\ntwo"), Document("2", "three")]


def test_endings_may_be_in_capitals_and_other_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "A.CSV").write_text("text\none\n")
    (tmp_path / "B.Jsonl.GZ").write_bytes(gzip.compress(b'{"text": "two"}\n'))
    (tmp_path / "notes.txt").write_text("left out")
    found = read_all(Corpus(str(tmp_path)))
    assert found == [Document("A.CSV:0", "one"), Document("B.Jsonl.GZ:0", "two")]
    assert "1 files of other formats are left out: ['notes.txt']" in caplog.text


def test_only_the_last_ending_names_the_format(tmp_path: Path) -> None:
    (tmp_path / "dump.csv.d").mkdir()
    write_rows(tmp_path / "dump.csv.d" / "x.csv.jsonl", [{"text": "one"}])
    assert read_all(Corpus(str(tmp_path))) == [Document("dump.csv.d/x.csv.jsonl:0", "one")]
