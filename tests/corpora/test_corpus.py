"""Whatever its format, a corpus gives every row once, as a document or as a dead letter."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import plan, read_all, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from e5.corpora.corpus import Corpus, DeadLetter, Document, Unit
from e5.corpora.formats import FORMATS
from e5.errors import InputError
from e5.texts import MAX_CHARACTERS

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['say "no"', "two\nlines", "a\r\nb", "old\rmac", "a,b;c\td", "line\u2028separator", "\x85\x0c"]
)


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
    write_rows(
        folder / f"part{ending}", [{"id": f"row {i}", "text": t} for i, t in enumerate(texts)]
    )
    corpus = Corpus(str(folder), id_column="id")
    found = read_all(corpus, rows_per_unit)
    assert [item.id for item in found] == [f"row {i}" for i in range(len(texts))]
    for item, text in zip(found, texts, strict=True):
        if text.strip():
            assert item == Document(item.id, text.strip())
        else:
            assert item == DeadLetter(item.id, "text: blank text")


def test_units_cover_each_file_without_gap_or_overlap(tmp_path: Path) -> None:
    for ending, count in zip(FORMATS, (1, 10, 19, 20, 30), strict=True):
        write_rows(tmp_path / f"part{ending}", [{"text": f"row {i}"} for i in range(count)])
    units = plan(Corpus(str(tmp_path)), 10)
    rows = {(unit.file, unit.first_row + i) for unit in units for i in range(unit.num_rows)}
    assert len(rows) == sum(unit.num_rows for unit in units) == 80
    assert len({unit.name for unit in units}) == len(units) == 9


def test_several_columns_are_joined_as_the_model_s_authors_do(tmp_path: Path) -> None:
    rows = [{"title": "Snow", "text": "Frozen water."}, {"text": "No title."}, {"title": "Only"}]
    write_rows(tmp_path / "a.jsonl", rows)
    found = read_all(Corpus(str(tmp_path / "a.jsonl"), ("title", "text")))
    assert found == [
        Document("a.jsonl:0", "Snow Frozen water."),
        Document("a.jsonl:1", "No title."),
        Document("a.jsonl:2", "Only"),
    ]


def test_other_files_do_not_change_a_unit_s_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", [{"text": "one"}])
    (alone,) = plan(Corpus(str(tmp_path)), 10)
    (tmp_path / "deeper").mkdir()
    for name in ("a.jsonl", "z.csv", "deeper/m.jsonl"):
        write_rows(tmp_path / name, [{"text": "more"}])
    names = [unit.name for unit in plan(Corpus(str(tmp_path)), 10)]
    assert alone.name in names
    assert len(set(names)) == 4


def test_a_bad_row_is_a_dead_letter_and_its_neighbours_are_documents(tmp_path: Path) -> None:
    bad = {
        b"{not json": "not JSON",
        b'["a", "list"]': "a JSON list, not an object",
        b"7": "a JSON int, not an object",
        b'{"id": 1, "text": 7}': "text: holds int, not text",
        b'{"id": 2, "text": null}': "text: blank text",
        b'{"id": 3, "text": " \\n"}': "text: blank text",
        b'{"id": 4}': "text: blank text",
        b'{"id": 5, "text": ["a"]}': "text: holds list, not text",
        b'{"id": 6, "text": "\\ud800"}': "text: a lone surrogate",
        b'{"id": "\\udfff", "text": "good"}': "id: holds what is no valid Unicode",
        b'{"id": "\\udfff", "text": 7}': "id: holds what is no valid Unicode",
        b'{"id": NaN, "text": "good"}': "id: holds no id",
        b'{"id": true, "text": "good"}': "id: holds no id",
        b'{"id": 7, "text": "\xff"}': "not JSON",
        b'{"text": "no id"}': "id: holds no id",
        b'{"id": {"a": 1}, "text": "good"}': "id: holds no id",
        b'{"id": 8, "text": "%s"}' % (b"x" * (MAX_CHARACTERS + 1)): "text: 1000001 characters",
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


def test_a_file_to_which_several_links_lead_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "a.jsonl", [{"text": "one"}])
    (tmp_path / "in" / "again.jsonl").symlink_to("a.jsonl")
    (tmp_path / "in" / "self").symlink_to(".")
    (tmp_path / "away.jsonl").write_text('{"text": "two"}')
    (tmp_path / "in" / "b.jsonl").symlink_to("../away.jsonl")
    found = read_all(Corpus(str(tmp_path / "in")))
    assert found == [Document("a.jsonl:0", "one"), Document("b.jsonl:0", "two")]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    ending: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / f"a{ending}", [{"id": "1", "body": "text"}])
    with pytest.raises(InputError, match=r"^text_columns: received 'text', which a\..* id, body"):
        plan(Corpus(str(tmp_path)), 10)
    with pytest.raises(InputError, match=r"^id_column: received 'key'"):
        plan(Corpus(str(tmp_path), ("body",), "key"))


def test_places_without_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^corpus: received .*/nowhere; give a file or folder"):
        plan(Corpus(str(tmp_path / "nowhere")))
    (tmp_path / "notes.txt").write_text("not a known format")
    with pytest.raises(InputError, match=r"give files that end in \.parquet, \.jsonl"):
        plan(Corpus(str(tmp_path)), 10)
    with pytest.raises(InputError, match=r"^nosuch://.*cannot be reached"):
        plan(Corpus("nosuch://bucket/corpus"))


def test_what_pyarrow_does_not_reach_fsspec_does() -> None:
    with fsspec.open("memory://corpus/a.jsonl", "w") as file:
        file.write('{"text": "far away"}\n')
    assert read_all(Corpus("memory://corpus")) == [Document("a.jsonl:0", "far away")]


def test_files_without_rows_have_no_units(tmp_path: Path) -> None:
    for name, content in {"a.csv": "", "b.csv": "id,text\n", "c.jsonl": ""}.items():
        (tmp_path / name).write_text(content)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    assert plan(Corpus(str(tmp_path)), 10) == []


def test_a_file_name_that_is_no_utf_8_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "one"}])
    with open(bytes(tmp_path) + b"/\xff.txt", "w"):
        pass
    with pytest.raises(InputError, match="which cannot be listed"):
        Corpus(str(tmp_path)).files()


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\none,two\n")
    with pytest.raises(InputError, match=r"which a\.csv has 2 times; rename"):
        plan(Corpus(str(tmp_path)), 10)


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


@pytest.mark.parametrize(
    ("columns", "field"),
    [({"text_columns": ("\udcff",)}, "text_columns"), ({"id_column": "\udcff"}, "id_column")],
)
def test_a_column_s_name_is_unicode(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: received a lone surrogate"):
        Corpus("nowhere", **columns)
