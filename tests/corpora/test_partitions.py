"""The folders `lang=en/year=2024` of a corpus are columns, for whoever asks for them."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pytest
from corpus_tools import mirror, read_all, write_rows

from e5.corpora.corpus import Corpus
from e5.corpora.documents import Document
from e5.corpora.index import Index
from e5.corpora.partitions import partition_columns
from e5.corpora.shard_folder import ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError

COLUMNS: dict[str, list[Any]] = {
    "text": ["snow", "rain", "sun", "tea"],
    "lang": ["en", "São Paulo/a=b 100%", None, "__x"],
    "year": [2024, 2025, None, 7],
    "month": ["01", "12", "02", "01"],
    "day": [date(2024, 1, i) for i in (1, 2, 3, 4)],
    "code": ["007", "A1", "1", None],
}
KEEP = ("lang", "year", "month", "day", "code")


def test_what_arrow_writes_is_kept_with_its_types(tmp_path: Path, embedder: Embedder) -> None:
    location = tmp_path / "run=3" / "in"
    location.mkdir(parents=True)
    flavor = {"partitioning": list(KEEP), "partitioning_flavor": "hive"}
    pyarrow.dataset.write_dataset(pa.table(COLUMNS), location, format="parquet", **flavor)
    folder = ShardFolder(str(tmp_path / "out"))
    mirror(Corpus(str(location), keep=KEEP), folder, embedder)
    index = Index.build(folder, str(tmp_path / "index"))
    types = {"lang": "string", "year": "int64", "month": "int64", "day": "date32[day]"}
    assert index.manifest.keep == types | {"code": "string"}
    hits = {hit.text: hit.values for hit in index.find(embedder, "snow")}
    for i, text in enumerate(COLUMNS["text"]):
        row = {name: COLUMNS[name][i] for name in KEEP}
        assert hits[text] == row | {"month": int(row["month"])}
    (hit,) = index.find(embedder, "snow", where="month = 1 and lang = 'en' and day is not null")
    assert hit.text == "snow"
    (hit,) = index.find(embedder, "snow", where="lang is null and year is null")
    assert hit.text == "sun"


def corpus_of(folder: Path, files: dict[str, list[dict[str, Any]]], **columns: Any) -> Corpus:
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_rows(folder / name, rows)
    return Corpus(str(folder), **columns)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_a_column_of_the_file_comes_before_that_of_its_folder(ending: str, tmp_path: Path) -> None:
    files: dict[str, list[dict[str, Any]]] = {
        f"lang=en/a.{ending}": [{"text": "snow", "lang": "de"}, {"text": "ice", "lang": None}],
        f"lang=en/b.{ending}": [{"text": "rain"}],
    }
    found = read_all(corpus_of(tmp_path, files, keep=("lang",)))
    assert [(item.text, item.kept) for item in found if isinstance(item, Document)] == [
        ("snow", ("de",)), ("ice", ("" if ending == "csv" else None,)), ("rain", ("en",)),
    ]  # fmt: skip


def test_a_row_may_have_what_the_first_thousand_of_its_file_lack(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"row {i}"} for i in range(1001)]
    files = {"lang=en/a.jsonl": [*rows, {"text": "last", "lang": "de"}]}
    found = read_all(corpus_of(tmp_path, files, keep=("lang",)))
    assert [item.kept for item in found[-2:] if isinstance(item, Document)] == [("en",), ("de",)]


def test_a_folder_may_be_a_text_or_an_id(tmp_path: Path) -> None:
    files = {"title=Snow%21/key=7/a.csv": [{"text": "falls"}]}
    corpus = corpus_of(tmp_path, files, text_columns=("title", "text"), id_column="key")
    assert read_all(corpus) == [Document("7", "Snow! falls")]


def test_only_folders_below_the_location_are_columns_and_only_if_asked_for(tmp_path: Path) -> None:
    files = {"lang=en/a=1/a=2/x=%FF/a.jsonl": [{"text": "snow"}], "b.jsonl": [{"text": "rain"}]}
    assert len(read_all(corpus_of(tmp_path, files))) == 2
    inside = Corpus(str(tmp_path / "lang=en"), keep=("lang",))
    with pytest.raises(InputError, match=r"^keep: received 'lang', which .* does not have; it has"):
        read_all(inside)
    alone = Corpus(str(tmp_path / "lang=en/a=1/a=2/x=%FF/a.jsonl"), keep=("x",))
    with pytest.raises(InputError, match=r"^keep: received 'x', which a\.jsonl does not have"):
        read_all(alone)
    with pytest.raises(InputError, match=r"^keep: received 'lang', which b\.jsonl does not have"):
        read_all(Corpus(str(tmp_path), keep=("lang",)))


@pytest.mark.parametrize(
    ("column", "message"),
    [("a", "two folders that name 'a'"), ("x", "the folder 'x=%FF', whose value is not UTF-8")],
)
def test_folders_that_cannot_be_a_column_are_refused(
    column: str, message: str, tmp_path: Path
) -> None:
    corpus = corpus_of(tmp_path, {"a=1/a=2/x=%FF/a.jsonl": [{"text": "snow"}]}, keep=(column,))
    with pytest.raises(InputError, match=rf"^a=1/a=2/x=%FF/a\.jsonl: received {message}"):
        read_all(corpus)


def test_any_storage_has_such_folders() -> None:
    with fsspec.open("memory://hive/lang=en/a.jsonl", "w") as file:
        file.write(json.dumps({"text": "snow"}))
    found = read_all(Corpus("memory://hive", keep=("lang",)))
    assert found == [Document("lang=en/a.jsonl:0", "snow", ("en",))]


def test_the_first_equals_sign_ends_the_name() -> None:
    wanted = {"a", "ä b", "", "c.csv"}
    assert partition_columns("a=b=c/%C3%A4%20b=+/=x/y/c.csv=1", wanted) == {
        "a": "b=c",
        "ä b": "+",
        "": "x",
    }
