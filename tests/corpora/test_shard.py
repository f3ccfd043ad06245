"""A shard is read as it was written, and its footer has an entry for each document."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from e5.corpora.documents import Document, Passage
from e5.corpora.shard import (
    FOOTER_KEY,
    Dtype,
    Entries,
    Shard,
    encode_vectors,
    open_shard,
    read_entries,
    shard_name,
    shard_number,
    shard_schema,
)
from e5.errors import InputError

LOCAL = fs.LocalFileSystem()
KEPT = {"year": pa.int64(), "on": pa.date32(), "lang": pa.string(), "ok": pa.bool_()}
DOCUMENTS = [
    Document(f"d{i}", f"text {i} \N{SNOWMAN}", (i, date(2024, 1, 1 + i), None, bool(i % 2)))
    for i in range(5)
]


def shard_of(dtype: Dtype = "float16", *, has_passages: bool = False) -> Shard:
    vectors = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    parts = [[Passage(document.text, 0, len(document.text))] for document in DOCUMENTS]
    if has_passages:
        parts = [
            [Passage(document.text[a : a + 4], a, a + 4) for a in (0, 4)] for document in DOCUMENTS
        ]
    numbers = encode_vectors(vectors[: sum(map(len, parts))], dtype)
    schema = shard_schema(dtype, 16, KEPT, has_passages=has_passages)
    return Shard.of(DOCUMENTS, parts, numbers, schema)


def entries_of(filesystem: fs.FileSystem, path: str) -> tuple[Entries, bool]:
    with open_shard(filesystem, path) as opened:
        return read_entries(opened)


def written(shard: Shard, folder: Path) -> str:
    path = folder / "part-000000.parquet"
    path.write_bytes(shard.as_parquet())
    return str(path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("has_passages", [False, True])
def test_it_is_read_as_it_was_written(dtype: Dtype, has_passages: bool, tmp_path: Path) -> None:
    shard = shard_of(dtype, has_passages=has_passages)
    path = written(shard, tmp_path)
    again = Shard.read(LOCAL, path)
    assert again.table.equals(shard.table)
    assert (again.entries == shard.entries).all()
    assert (entries_of(LOCAL, path)[0] == shard.entries).all()
    assert (again.stored_vectors() == shard.stored_vectors()).all()
    assert [tuple(entry)[:3] for entry in shard.entries.tolist()] == [d.hashes() for d in DOCUMENTS]
    assert again.as_parquet() == shard.as_parquet()  # the same documents are the same bytes


def test_rows_have_the_values_of_their_documents() -> None:
    table = shard_of(has_passages=True).table
    assert table.schema.names == [
        *("id", "document", "start", "end", "text"), *KEPT, "embedding"
    ]  # fmt: skip
    assert table["id"].to_pylist()[:3] == ["d0#0", "d0#1", "d1#0"]
    assert table["document"].to_pylist()[:3] == ["d0", "d0", "d1"]
    assert table["year"].to_pylist()[:3] == [0, 0, 1]


@pytest.mark.parametrize("has_passages", [False, True])
def test_documents_are_selected_with_all_rows_and_shards_are_added(
    has_passages: bool,
) -> None:
    shard = shard_of(has_passages=has_passages)
    chosen = np.array([True, False, True, False, False])
    part, rest = shard.select(chosen), shard.select(~chosen)
    assert set(part.table["document" if has_passages else "id"].to_pylist()) == {"d0", "d2"}
    both = part + rest
    assert sorted(both.table["id"].to_pylist()) == sorted(shard.table["id"].to_pylist())
    assert len(both.entries) == len(shard.entries)


def test_the_entries_of_a_shard_of_release_1_are_made_of_its_rows(tmp_path: Path) -> None:
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, np.float16)), 2)
    table = pa.table({"id": ["a", "b"], "text": ["one", "two"], "embedding": numbers})
    pq.write_table(table, tmp_path / "old.parquet")
    entries, are_in_footer = entries_of(LOCAL, str(tmp_path / "old.parquet"))
    assert not are_in_footer
    for entry, (name, text) in zip(entries.tolist(), [("a", "one"), ("b", "two")], strict=True):
        assert entry == (*Document(name, text).hashes(), 1)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_a_file_that_is_no_shard_is_named_with_a_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    for read in (Shard.read, entries_of):
        reading: Any = read
        with pytest.raises(InputError, match=r"^x\.parquet: received a shard that cannot be read"):
            reading(LOCAL, str(tmp_path / "x.parquet"))


def test_the_entries_in_the_footer_need_few_bytes(tmp_path: Path) -> None:
    path = written(shard_of(), tmp_path)
    listed = pq.ParquetFile(path).metadata.metadata[FOOTER_KEY]
    assert len(listed) / len(DOCUMENTS) < 40  # bytes, beside 7 KB of a vector of 4096 dimensions


def test_a_shard_and_its_backup_have_its_number_in_their_names() -> None:
    assert shard_name(7) == "part-000007.parquet"
    assert shard_number("part-000007.parquet") == shard_number("part-000007.parquet.replaced") == 7
    assert shard_number("part-7.parquet") is None
