"""A corpus as a dictionary of files, and what a folder of shards holds, as plain dictionaries."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from corpus_tools import write_rows

from e5.corpora.corpus import Corpus

Files = dict[str, list[dict[str, Any]]]
KEEP = ("year",)


def write_files(folder: Path, files: Files) -> Corpus:
    """Make these the files of a corpus."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, rows in files.items():
        write_rows(folder / name, rows)
    return Corpus(str(folder), id_column="id", keep=KEEP)


def documents_of(files: Files) -> dict[str, tuple[str, int]]:
    """Text and year by id of what the files hold; the last row of an id counts."""
    return {
        row["id"]: (row["text"], row["year"]) for _, rows in sorted(files.items()) for row in rows
    }


def documents_in(out: Path) -> dict[str, tuple[str, int]]:
    """Text and year by id of what the shards hold; no document is there twice."""
    tables = [pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))]
    rows = [row for table in tables for row in table.drop_columns("embedding").to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["text"], row["year"]) for row in rows}


def rows_of(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"d{i}", "text": f"text {i}", "year": i} for i in range(first, first + count)]
