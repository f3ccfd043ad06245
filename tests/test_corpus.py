"""Whatever its format, a corpus gives every row once, as a document or as a dead letter."""

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5.corpus import Corpus, DeadLetter, Document, Unit
from e5.errors import InputError
from e5.formats import FORMATS
from e5.types import MAX_CHARACTERS

Row = dict[str, Any]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['say "no"', "two\nlines", "a\r\nb", "old\rmac", "a,b;c\td", "line\u2028separator", "\x85\x0c"]
)


def write(path: Path, rows: Sequence[Row], rows_per_group: int = 7) -> None:
    """The rows in the format that the path's ending names."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        columns = dict.fromkeys(key for row in rows for key in row)
        table = pa.table({key: pa.array([row.get(key) for row in rows]) for key in columns})
        pq.write_table(table, path, row_group_size=rows_per_group)
        return
    text = io.StringIO(newline="")
    if name.endswith(".csv"):
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def plan(corpus: Corpus, rows_per_unit: int = 10) -> list[Unit]:
    return corpus.plan(corpus.files(), rows_per_unit)


def read_all(corpus: Corpus, rows_per_unit: int = 3) -> list[Document | DeadLetter]:
    """Every unit, read in any order, put back in the corpus's own."""
    units = plan(corpus, rows_per_unit)
    shuffled = random.Random(len(units)).sample(units, len(units))
    read = {unit: list(corpus.read(unit)) for unit in shuffled}
    return [row for unit in units for row in read[unit]]


@settings(max_examples=25)
@given(texts=st.lists(TEXTS, min_size=1, max_size=20), rows_per_unit=st.integers(1, 21))
@pytest.mark.parametrize("ending", FORMATS)
def test_every_row_is_read_once_whatever_the_units(
    ending: str,
    texts: list[str],
    rows_per_unit: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / f"part{ending}", [{"id": f"row {i}", "text": t} for i, t in enumerate(texts)])
    corpus = Corpus(str(folder), id_column="id")
    found = read_all(corpus, rows_per_unit)
    assert [item.id for item in found] == [f"row {i}" for i in range(len(texts))]
    for item, text in zip(found, texts, strict=True):
        if text.strip():
            assert item == Document(item.id, text.strip())
        else:
            assert item == DeadLetter(item.id, "text: empty")


def test_units_cover_each_file_without_gap_or_overlap(tmp_path: Path) -> None:
    for ending, count in zip(FORMATS, (1, 10, 19, 20, 30), strict=True):
        write(tmp_path / f"part{ending}", [{"text": f"row {i}"} for i in range(count)])
    units = plan(Corpus(str(tmp_path)))
    rows = {(unit.file, unit.first_row + i) for unit in units for i in range(unit.num_rows)}
    assert len(rows) == sum(unit.num_rows for unit in units) == 80
    assert len({unit.name for unit in units}) == len(units) == 9


def test_several_columns_are_joined_as_the_model_s_authors_do(tmp_path: Path) -> None:
    rows = [{"title": "Snow", "text": "Frozen water."}, {"text": "No title."}, {"title": "Only"}]
    write(tmp_path / "a.jsonl", rows)
    found = read_all(Corpus(str(tmp_path / "a.jsonl"), ("title", "text")))
    assert found == [
        Document("a.jsonl:0", "Snow Frozen water."),
        Document("a.jsonl:1", "No title."),
        Document("a.jsonl:2", "Only"),
    ]


def test_other_files_do_not_change_a_unit_s_name(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", [{"text": "one"}])
    (alone,) = plan(Corpus(str(tmp_path)))
    (tmp_path / "deeper").mkdir()
    for name in ("a.jsonl", "z.csv", "deeper/m.jsonl"):
        write(tmp_path / name, [{"text": "more"}])
    names = [unit.name for unit in plan(Corpus(str(tmp_path)))]
    assert alone.name in names
    assert len(set(names)) == 4


def test_a_bad_row_is_a_dead_letter_and_its_neighbours_are_documents(tmp_path: Path) -> None:
    bad = {
        b"{not json": "not JSON",
        b'["a", "list"]': "a JSON list, not an object",
        b"7": "a JSON int, not an object",
        b'{"id": 1, "text": 7}': "text: holds int, not text",
        b'{"id": 2, "text": null}': "text: empty",
        b'{"id": 3, "text": " \\n"}': "text: empty",
        b'{"id": 4}': "text: empty",
        b'{"id": 5, "text": ["a"]}': "text: holds list, not text",
        b'{"id": 6, "text": "\\ud800"}': "text: holds what is no valid Unicode",
        b'{"id": "\\udfff", "text": "good"}': "id: holds what is no valid Unicode",
        b'{"id": "\\udfff", "text": 7}': "id: holds what is no valid Unicode",
        b'{"id": NaN, "text": "good"}': "id: holds no id",
        b'{"id": true, "text": "good"}': "id: holds no id",
        b'{"id": 7, "text": "\xff"}': "not JSON",
        b'{"text": "no id"}': "id: holds no id",
        b'{"id": {"a": 1}, "text": "good"}': "id: holds no id",
        b'{"id": 8, "text": "%s"}' % (b"x" * (MAX_CHARACTERS + 1)): "1000001 characters",
        b"[" * 100_000: "not JSON",
    }
    lines = [line for row in bad for line in (row, b'{"id": "good", "text": "neighbour"}')]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = read_all(Corpus(str(tmp_path), id_column="id"))
    assert found[1::2] == [Document("good", "neighbour")] * len(bad)
    for item, reason in zip(found[::2], bad.values(), strict=True):
        assert isinstance(item, DeadLetter)
        assert item.reason.startswith(reason)
        json.dumps(item.id, ensure_ascii=False).encode()


def test_bytes_that_are_no_utf_8_cost_a_csv_only_their_own_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\ngood\nbad \xff\ngood\n")
    first, second, third = read_all(Corpus(str(tmp_path)), 1)
    assert isinstance(first, Document)
    assert second == DeadLetter("a.csv:1", "text: holds what is no valid Unicode")
    assert third == Document("a.csv:2", "good")


def test_a_csv_s_ragged_rows_lose_nothing_unsaid(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,Hello, world\n2\n3,three,,\n")
    assert read_all(Corpus(str(tmp_path), id_column="id")) == [
        DeadLetter("a.csv:0", "3 values for 2 columns"),
        DeadLetter("2", "text: empty"),
        Document("3", "three"),
    ]


@pytest.mark.parametrize("rest", ["", "\n", "\n2,good\n3,good\n"])
def test_a_quote_that_is_never_closed_swallows_no_rows(rest: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'id,text\n0,"a\nb"\n1,"unclosed{rest}')
    with pytest.raises(InputError, match=r"^a\.csv: received .*a quote is opened and never closed"):
        plan(Corpus(str(tmp_path)))
    (tmp_path / "a.csv").write_text(f'id,text\n0,"a\nb"\n1,"closed{rest}"')
    assert len(read_all(Corpus(str(tmp_path)))) == 2


def test_a_file_to_which_several_links_lead_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", [{"text": "one"}])
    (tmp_path / "in" / "again.jsonl").symlink_to("a.jsonl")
    (tmp_path / "in" / "self").symlink_to(".")
    (tmp_path / "away.jsonl").write_text('{"text": "two"}')
    (tmp_path / "in" / "b.jsonl").symlink_to("../away.jsonl")
    found = read_all(Corpus(str(tmp_path / "in")))
    assert found == [Document("a.jsonl:0", "one"), Document("b.jsonl:0", "two")]


def test_blank_lines_are_no_rows_but_keep_the_numbers_right(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n \n{"text": "two"}')
    found = read_all(Corpus(str(tmp_path)), 2)
    assert found == [Document("a.jsonl:1", "one"), Document("a.jsonl:3", "two")]


def test_a_field_may_be_larger_than_the_csv_module_s_own_limit(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [{"text": "x" * 200_000}, {"text": "neighbour"}])
    found = read_all(Corpus(str(tmp_path)))
    assert [len(row.text) for row in found if isinstance(row, Document)] == [200_000, 9]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    ending: str, tmp_path: Path
) -> None:
    write(tmp_path / f"a{ending}", [{"id": "1", "body": "text"}])
    with pytest.raises(InputError, match=r"^--text-column: received 'text', which a\..* id, body"):
        plan(Corpus(str(tmp_path)))
    with pytest.raises(InputError, match=r"^--id-column: received 'key'"):
        plan(Corpus(str(tmp_path), ("body",), "key"))


def test_a_column_that_only_some_rows_of_jsonl_have_is_there(tmp_path: Path) -> None:
    rows: list[Row] = [{"text": "one"}] * 500 + [{"text": "two", "title": "The"}]
    write(tmp_path / "a.jsonl", rows)
    assert read_all(Corpus(str(tmp_path), ("title", "text")), 400)[-1].id == "a.jsonl:500"


def test_blank_lines_before_a_csv_s_head_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n\ntext\none\n\ntwo\n")
    found = read_all(Corpus(str(tmp_path)), 1)
    assert found == [Document("a.csv:0", "one"), Document("a.csv:2", "two")]


def test_places_without_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^IN: received .*/nowhere; give a file or folder"):
        plan(Corpus(str(tmp_path / "nowhere")))
    (tmp_path / "notes.txt").write_text("not a known format")
    with pytest.raises(InputError, match=r"give files that end in \.parquet, \.jsonl"):
        plan(Corpus(str(tmp_path)))
    with pytest.raises(InputError, match=r"^nosuch://.*cannot be reached"):
        plan(Corpus("nosuch://bucket/corpus"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.parquet"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, [{"text": f"row {i}"} for i in range(1000)])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"^{name}: received what cannot be read"):
        plan(Corpus(str(tmp_path)))


def test_what_pyarrow_does_not_reach_fsspec_does() -> None:
    with fsspec.open("memory://corpus/a.jsonl", "w") as file:
        file.write('{"text": "far away"}\n')
    assert read_all(Corpus("memory://corpus")) == [Document("a.jsonl:0", "far away")]


@pytest.mark.parametrize(
    "column", [pa.array([b"bytes"]), pa.array([7]), pa.array([["a", "list"]]), pa.array([{"a": 1}])]
)
def test_a_parquet_column_that_cannot_hold_text_is_refused_at_once(
    column: pa.Array, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"^--text-column: received 'text', which holds .* a\."):
        plan(Corpus(str(tmp_path)))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()]
)
def test_parquet_s_kinds_of_text_are_text(kind: pa.DataType, tmp_path: Path) -> None:
    texts = [None if kind == pa.null() else "snow"] * 2
    pq.write_table(pa.table({"text": pa.array(texts, kind)}), tmp_path / "a.parquet")
    expected = DeadLetter("a.parquet:0", "text: empty")
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


def test_files_without_rows_have_no_units(tmp_path: Path) -> None:
    for name, content in {"a.csv": "", "b.csv": "id,text\n", "c.jsonl": ""}.items():
        (tmp_path / name).write_text(content)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    assert plan(Corpus(str(tmp_path))) == []


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


def test_a_file_name_that_is_no_utf_8_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "one"}])
    with open(bytes(tmp_path) + b"/\xff.txt", "w"):
        pass
    with pytest.raises(InputError, match="which cannot be listed"):
        Corpus(str(tmp_path)).files()


def test_only_the_last_ending_names_the_format(tmp_path: Path) -> None:
    (tmp_path / "dump.csv.d").mkdir()
    write(tmp_path / "dump.csv.d" / "x.csv.jsonl", [{"text": "one"}])
    assert read_all(Corpus(str(tmp_path))) == [Document("dump.csv.d/x.csv.jsonl:0", "one")]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\none,two\n")
    with pytest.raises(InputError, match=r"which a\.csv has 2 times; rename"):
        plan(Corpus(str(tmp_path)))


@pytest.mark.parametrize("value", ['""', "null", "[]"])
def test_an_empty_id_is_none(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good", "id": ' + value + "}")
    found = read_all(Corpus(str(tmp_path), id_column="id"))
    assert found == [DeadLetter("a.jsonl:0", "id: holds no id")]


def test_a_unit_s_name_is_a_file_name() -> None:
    name = Unit("a/../b/" + "ü b" * 99 + ".jsonl.gz", 12, 1).name
    assert name.isascii()
    assert "/" not in name
    assert len(name) < 100
