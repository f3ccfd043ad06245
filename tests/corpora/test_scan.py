"""One reading of a corpus finds all its documents, and the rows that are not documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import write_rows

from e5.corpora.column_types import column_type
from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter, Document, PassageSize
from e5.corpora.scan import ROWS_BETWEEN, Scan, dead_letters_name, documents_at, scan
from e5.errors import InputError


def scanned(
    corpus: Corpus, size: PassageSize | None = None
) -> tuple[Scan, dict[str, list[DeadLetter]]]:
    written: dict[str, list[DeadLetter]] = {}

    def write(name: str, letters: Sequence[DeadLetter]) -> None:
        written[name] = list(letters)

    return scan(corpus, corpus.files(), size, write), written


def test_every_row_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\nno json\n{"text": "two"}\n')
    write_rows(tmp_path / "b.csv", [{"text": "three"}, {"text": " "}])
    corpus = Corpus(str(tmp_path))
    found, written = scanned(corpus)
    documents = [
        Document("a.jsonl:0", "one"),
        Document("a.jsonl:3", "two"),
        Document("b.csv:0", "three"),
    ]
    hashes = np.array([document.hashes() for document in documents], np.uint64).T
    assert (
        np.stack([found.inventory.ids, found.inventory.contents, found.inventory.texts]) == hashes
    ).all()
    assert found.inventory.rows.tolist() == [0, 3, 0]
    assert found.inventory.groups == ("a.jsonl", "b.csv")
    assert (
        sorted(written)
        == sorted(found.dead_letters)
        == sorted([dead_letters_name("a.jsonl"), dead_letters_name("b.csv")])
    )
    assert [letter.id for letters in written.values() for letter in letters] == [
        "a.jsonl:2",
        "b.csv:1",
    ]
    again = list(documents_at(corpus, found, np.array([1, 2])))
    assert [(position, row) for position, _, row in again] == [(1, "a.jsonl:3"), (2, "b.csv:0")]
    assert [document for _, document, _ in again] == documents[1:]


def test_a_read_position_is_never_far_from_a_row(tmp_path: Path) -> None:
    count = 3 * ROWS_BETWEEN + 7
    write_rows(tmp_path / "a.jsonl", [{"text": f"row {i}"} for i in range(count)])
    found, _ = scanned(Corpus(str(tmp_path)))
    positions = found.read_positions["a.jsonl"]
    assert [position.row for position in positions] == [i * ROWS_BETWEEN for i in range(4)]


class TestKept:
    def test_the_type_holds_the_values_of_all_files(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "a.csv", [{"text": "one", "year": "2024", "n": "1", "x": ""}])
        write_rows(tmp_path / "b.jsonl", [{"text": "two", "year": 2025, "n": 1.5, "x": None}])
        table = pa.table(
            {"text": ["three"], "year": pa.array([7], pa.int16()), "n": [2], "x": [None]}
        )
        pq.write_table(table, tmp_path / "c.parquet")
        found, _ = scanned(Corpus(str(tmp_path), keep=("year", "n", "x")))
        kept_types = {column.name: column_type(column.kinds) for column in found.kept}
        assert kept_types == {"year": pa.int64(), "n": pa.float64(), "x": pa.null()}

    @pytest.mark.parametrize("value", [[1], {"a": 1}])
    def test_a_value_that_no_column_can_hold_is_refused(self, value: Any, tmp_path: Path) -> None:
        for name in ("a.jsonl", "a.parquet"):
            write_rows(tmp_path / name, [{"text": "one", "tags": value}])
            with pytest.raises(InputError, match=r"^keep: received 'tags', which holds .* a\."):
                scanned(Corpus(str(tmp_path / name), keep=("tags",)))


def test_a_long_document_counts_as_many_vectors(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "word " * 1000}, {"text": "word"}])
    found, _ = scanned(Corpus(str(tmp_path)), PassageSize(50))
    assert found.inventory.sizes.tolist() == [50, 1]


def test_the_name_for_dead_letters_stays_the_same() -> None:
    assert dead_letters_name("2026/a b.csv") == "a-b-csv-5741a73d47ef3dec"
