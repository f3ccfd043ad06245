"""Whatever its format, a corpus gives every row once, as a document or as a dead letter."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import read_all, read_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import needs_linux

from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import DeadLetter, Document
from e5.corpora.formats import FORMATS, ReadPosition
from e5.errors import InputError


@pytest.mark.slow
@settings(max_examples=20)
@given(data=st.data(), count=st.integers(1, 40))
@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv.zst"])
def test_selected_rows_are_those_of_the_whole_file_in_any_order_of_files(
    ending: str, data: st.DataObject, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    rows: list[dict[str, Any]] = [{"id": f"row {i}", "text": f"text\n{i}"} for i in range(count)]
    for name in ("a", "b"):
        write_rows(folder / f"{name}{ending}", rows)
    corpus = Corpus(str(folder), id_column="id")
    whole = {file: read_rows(corpus, file) for file in corpus.files()}
    with Reading(corpus) as reading:
        for _ in range(4):
            file = data.draw(st.sampled_from(sorted(whole)))
            selected = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
            starts = [row.start for row in whole[file] if row.start.row <= selected[0]]
            start = data.draw(st.sampled_from(starts))
            found = list(reading.selected_rows(file, start, selected))
            assert found == [whole[file][number] for number in selected]


def test_a_compressed_file_is_unpacked_once_by_ascending_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "a.jsonl.gz", [{"text": f"row {i}"} for i in range(4000)])
    corpus = Corpus(str(tmp_path))
    positions = [row.start for row in read_rows(corpus, "a.jsonl.gz")]
    opened: list[str] = []
    unpack = pa.CompressedInputStream

    def counted(*arguments: Any) -> Any:
        opened.append("again")
        return unpack(*arguments)

    monkeypatch.setattr(pa, "CompressedInputStream", counted)
    with Reading(corpus) as reading:
        reading.open("a.jsonl.gz")
        opened.clear()
        for first in range(0, 4000, 100):
            start = positions[first // 1024 * 1024]
            list(reading.selected_rows("a.jsonl.gz", start, range(first, first + 70)))
    assert len(opened) <= 1


def test_a_bad_row_is_a_dead_letter_and_its_neighbours_are_documents(tmp_path: Path) -> None:
    bad = {
        b"{not json": "not JSON",
        b'["a", "list"]': 'JSON, but not an object: ["a", "list"]',
        b"7": "JSON, but not an object: 7",
        b'{"id": 1, "text": 7}': "text: holds int, not text",
        b'{"id": 2, "text": null}': "text: blank text",
        b'{"id": 3, "text": " \\n"}': "text: blank text",
        b'{"id": 4}': "text: blank text",
        b'{"id": 5, "text": ["a"]}': "text: holds list, not text",
        b'{"id": 6, "text": "\\ud800"}': "text: a lone surrogate",
        b'{"id": "\\udfff", "text": "good"}': "id: holds invalid Unicode",
        b'{"id": "\\udfff", "text": 7}': "id: holds invalid Unicode",
        b'{"id": NaN, "text": "good"}': "id: holds no id",
        b'{"id": true, "text": "good"}': "id: holds no id",
        b'{"id": 7, "text": "\xff"}': "text: not UTF-8 (character 0);",
        b'{"text": "no id"}': "id: holds no id",
        b'{"id": {"a": 1}, "text": "good"}': "id: holds no id",
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


def test_a_link_is_known_by_its_own_name_whatever_its_target_is_called(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "5f3a").write_text('{"text": "one"}')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").symlink_to("../blobs/5f3a")
    assert read_all(Corpus(str(tmp_path / "in"))) == [Document("a.jsonl:0", "one")]
    alone = Corpus(str(tmp_path / "in" / "a.jsonl"))
    assert read_all(alone) == [Document("a.jsonl:0", "one")]
    (tmp_path / "folder").symlink_to("in")
    assert read_all(Corpus(str(tmp_path / "folder"))) == [Document("a.jsonl:0", "one")]


def test_hidden_files_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jsonl", "_temporary/b.jsonl", ".ipynb_checkpoints/c.jsonl", "d/._e.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, [{"text": name}])
    with caplog.at_level("INFO"):
        assert read_all(Corpus(str(tmp_path))) == [Document("a.jsonl:0", "a.jsonl")]
    assert "3 files are left out, because their names" in caplog.text
    named = Corpus(str(tmp_path / "_temporary" / "b.jsonl"))  # who names it wants it
    assert len(read_all(named)) == 1


def test_any_change_of_a_file_changes_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    corpus = Corpus(str(tmp_path))
    line = b'{"text": "%s"}\n' % (b"x" * 200_000)
    path.write_bytes(line)
    seen = {corpus.files()["a.jsonl"]}
    for content in (line + b"\n", line.replace(b"x" * 50_000, b"y" * 50_000, 1)):
        path.write_bytes(content)
        seen.add(corpus.files()["a.jsonl"])
    middle = line[:100_000] + b"z" + line[100_001:]  # as long, and with the same ends
    path.write_bytes(middle)
    seen.add(corpus.files()["a.jsonl"])
    assert len(seen) == 4
    os.utime(path, ns=(1, 1))
    assert corpus.files()["a.jsonl"] not in seen


@pytest.mark.parametrize("ending", FORMATS)
def test_a_missing_column_is_named_with_the_existing_ones(ending: str, tmp_path: Path) -> None:
    write_rows(tmp_path / f"a{ending}", [{"id": "1", "body": "text"}])
    with pytest.raises(InputError, match=r"^text_columns: received 'text', which a\..* id, body"):
        read_all(Corpus(str(tmp_path)))
    with pytest.raises(InputError, match=r"^id_column: received 'key'"):
        read_all(Corpus(str(tmp_path), ("body",), "key"))
    with pytest.raises(InputError, match=r"^keep: received 'year'"):
        read_all(Corpus(str(tmp_path), ("body",), keep=("year",)))


def test_a_location_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^corpus: received .*/nowhere; give a file or folder"):
        read_all(Corpus(str(tmp_path / "nowhere")))
    (tmp_path / "notes.txt").write_text("not a known format")
    with pytest.raises(InputError, match=r"give files that end in \.parquet, \.jsonl"):
        read_all(Corpus(str(tmp_path)))
    with pytest.raises(InputError, match=r"^nosuch://.*cannot be reached"):
        read_all(Corpus("nosuch://bucket/corpus"))


def test_a_location_that_pyarrow_does_not_know_is_opened_by_fsspec() -> None:
    with fsspec.open("memory://corpus/a.jsonl", "w") as file:
        file.write('{"text": "far away"}\n')
    assert read_all(Corpus("memory://corpus")) == [Document("a.jsonl:0", "far away")]


def test_files_without_rows_have_no_documents(tmp_path: Path) -> None:
    for name, content in {"a.csv": "", "b.csv": "id,text\n", "c.jsonl": ""}.items():
        (tmp_path / name).write_text(content)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    assert read_all(Corpus(str(tmp_path))) == []
    (tmp_path / "empty").mkdir()
    assert Corpus(str(tmp_path / "empty")).files() == {}


@needs_linux
def test_what_is_left_out_of_a_folder_is_said_unless_it_was_said_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "one"}])
    (tmp_path / "latest").symlink_to(".")
    for name in (b"\xff.jsonl", b"new\nline.txt"):
        with open(bytes(tmp_path) + b"/" + name, "w"):
            pass
    for quiet, said in ((False, True), (True, False)):
        caplog.clear()
        assert list(Corpus(str(tmp_path)).files(quiet=quiet)) == ["a.jsonl"]
        for left_out in ("latest", r"\xff.jsonl", ": new line.txt"):
            assert (left_out in caplog.text) == said
    for path in ("\udcff.jsonl", "\udcff"):
        with pytest.raises(
            InputError, match=r"\\udcff.*: received a location that cannot be reach"
        ):
            Corpus(str(tmp_path / path)).files()


def test_a_column_that_a_file_has_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\none,two\n")
    with pytest.raises(InputError, match=r"which a\.csv has 2 times; rename"):
        read_all(Corpus(str(tmp_path)))


@pytest.mark.parametrize("value", ['""', "null", "[]"])
def test_an_empty_id_is_no_id(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good", "id": ' + value + "}")
    found = read_all(Corpus(str(tmp_path), id_column="id"))
    assert found == [DeadLetter("a.jsonl:0", "id: holds no id")]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.zst", "a.json", "a.parquet"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / name, [{"text": f"row {i}"} for i in range(1000)])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"^{name}: received a file that cannot be read"):
        read_all(Corpus(str(tmp_path)))


@pytest.mark.parametrize(
    "column", [pa.array([7]), pa.array([["a", "list"]]), pa.array([{"a": 1}])], ids=str
)
def test_a_parquet_column_that_cannot_hold_text_is_refused_at_once(
    column: pa.Array, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"^text_columns: received 'text', which holds .* a\."):
        read_all(Corpus(str(tmp_path)))


def test_endings_may_be_in_capitals_and_other_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "A.CSV").write_text("text\none\n")
    write_rows(tmp_path / "b.jsonl.gz", [{"text": "two"}])
    (tmp_path / "b.jsonl.gz").rename(tmp_path / "B.Jsonl.GZ")
    (tmp_path / "notes.txt").write_text("left out")
    found = read_all(Corpus(str(tmp_path)))
    assert found == [Document("A.CSV:0", "one"), Document("B.Jsonl.GZ:0", "two")]
    assert "1 files are left out, because their formats are not known: notes.txt" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.csv", "text\none\n".encode("utf-16"), "read it with --encoding utf-16"),
        ("a.json", b'{"text": "one"}', "write an array of objects"),
        ("a.csv.gz", b"text\none\n", "repair it and run again"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_own_remedy(
    name: str, content: bytes, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^{name}: received a file that cannot") as refused:
        read_all(Corpus(str(tmp_path)))
    assert refused.value.remedy.startswith(remedy)
    assert ";" not in refused.value.received


def test_a_type_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\none,1\n")
    with pytest.raises(InputError, match=r"^keep: received 'n:float'.*; the types .* number,"):
        read_all(Corpus(str(tmp_path), keep=("n:float",)))


def test_only_the_last_ending_names_the_format(tmp_path: Path) -> None:
    (tmp_path / "dump.csv.d").mkdir()
    write_rows(tmp_path / "dump.csv.d" / "x.csv.jsonl", [{"text": "one"}])
    assert read_all(Corpus(str(tmp_path))) == [Document("dump.csv.d/x.csv.jsonl:0", "one")]


def test_a_position_is_a_row_number_and_an_offset(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n{"text": "two"}\n')
    positions = [row.start for row in read_rows(Corpus(str(tmp_path)), "a.jsonl")]
    assert positions == [ReadPosition(1, 1), ReadPosition(2, 17)]


@pytest.mark.parametrize(
    ("columns", "field"),
    [({"text_columns": ("\udcff",)}, "text_columns"), ({"id_column": "\udcff"}, "id_column")],
)
def test_a_column_s_name_is_unicode(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: received a lone surrogate"):
        Corpus("nowhere", **columns)
