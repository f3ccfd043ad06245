"""A folder of shards has what its manifest says, and is refused to other rules and programs."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import (
    begin,
    clustered,
    dead_letters,
    embed,
    files,
    mirror,
    read_shards,
    shard_names,
    texts,
    vectors_of,
    write_corpus,
    write_rows,
    write_shard,
    write_shards,
)

from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter, Document, PassageSize
from e5.corpora.index import Index
from e5.corpora.loop import Loop
from e5.corpora.shard import ENTRY, FOOTER_KEY, decode_vectors
from e5.corpora.shard_folder import DEAD_LETTERS, SHARD_MANIFEST, Recipe, ShardFolder
from e5.corpora.synchronize import embed_corpus
from e5.embedder import Embedder
from e5.errors import InputError


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_shard_holds_what_the_embedder_gives(
    dtype: str, tmp_path: Path, embedder: Embedder
) -> None:
    rows = texts(50)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder, Recipe(dtype=dtype))  # type: ignore[arg-type]
    table = read_shards(tmp_path / "out")
    assert table["id"].to_pylist() == [f"a-{i}" for i in range(50)]
    assert table["text"].to_pylist() == rows
    expected = embedder.encode_document(rows)
    tolerance = 1e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(vectors_of(table), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_smaller_numbers_keep_the_direction(dtype: str, tmp_path: Path, embedder: Embedder) -> None:
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder, Recipe(dtype=dtype))  # type: ignore[arg-type]
    column = read_shards(tmp_path / "out")["embedding"].combine_chunks()
    assert column.type.value_type == (pa.int8() if dtype == "int8" else pa.uint8())
    assert column.type.list_size == (embedder.dimensions // (1 if dtype == "int8" else 8))
    numbers = column.flatten().to_numpy().reshape(20, -1)
    found = decode_vectors(numbers, dtype)  # type: ignore[arg-type]
    expected = embedder.encode_document(rows, normalize=True)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > (0.999 if dtype == "int8" else 0.6)


def test_shards_are_compressed_as_measured_best(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(9))
    embed(corpus, tmp_path / "out", embedder)
    (name,) = shard_names(tmp_path / "out")
    file = pq.ParquetFile(tmp_path / "out" / name)
    numbers = file.metadata.row_group(0).column(2)
    assert numbers.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in numbers.encodings
    hidden = embedder.dimensions
    assert file.schema_arrow.field("embedding").type == pa.list_(pa.float32(), hidden)


def test_all_files_but_shards_have_names_that_readers_skip(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(9), " "])
    embed(corpus, tmp_path / "out", embedder)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"part-000000.parquet", SHARD_MANIFEST, DEAD_LETTERS, "_lock"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "sts_query"}, "task '', not 'sts_query'"),
        ({"dimensions": 8}, "dimensions 64, not 8"),
        ({"normalize": True}, "normalize False, not True"),
        ({"dtype": "float32"}, "dtype 'float16', not 'float32'"),
        ({"passage_size": PassageSize(20)}, "passages None, not 20"),
    ],
)
def test_other_rules_are_refused_and_both_named(
    change: dict[str, object], named: str, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    recipe = replace(Recipe(), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=named) as refused:
        embed(corpus, tmp_path / "out", embedder, recipe)
    # The remedy names --reuse only where another folder may take vectors from this one.
    if "--reuse" in refused.value.remedy:
        other = ShardFolder(str(tmp_path / "other"), recipe)
        mirror(corpus, other, embedder, reuse=[ShardFolder(str(tmp_path / "out"))])
    else:
        assert "passage_size" not in change


def test_the_order_of_kept_columns_does_not_matter(tmp_path: Path, embedder: Embedder) -> None:
    rows = [{"id": f"d{i}", "text": f"text {i}", "a": f"a{i}", "b": f"b{i}"} for i in range(5)]
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    write_rows(path, rows[:3])
    folder = ShardFolder(str(tmp_path / "out"))
    mirror(Corpus(str(path), id_column="id", keep=("a", "b")), folder, embedder)
    write_rows(path, rows)
    report = mirror(Corpus(str(path), id_column="id", keep=("b", "a")), folder, embedder)
    assert report.summary.documents == 2
    table = read_shards(tmp_path / "out").drop_columns("embedding")
    assert sorted(table.to_pylist(), key=lambda row: str(row["id"])) == rows


def test_another_fingerprint_is_refused_another_folder_name_is_not(
    tmp_path: Path, embedder: Embedder, bf16_embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    folder = embed(corpus, tmp_path / "out", embedder)
    before = files(tmp_path / "out")
    with pytest.raises(InputError) as refused:
        begin(folder, bf16_embedder, corpus)
    assert embedder.name in str(refused.value)
    assert bf16_embedder.name in str(refused.value)
    assert files(tmp_path / "out") == before
    folder.check("moved@" + embedder.name.partition("@")[2], 64, corpus)


@pytest.mark.parametrize("has_manifest", [True, False])
def test_parquet_files_of_another_program_are_not_mixed_with_ours(
    has_manifest: bool, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    if has_manifest:
        embed(corpus, tmp_path / "out", embedder)
    (tmp_path / "out").mkdir(exist_ok=True)
    pq.write_table(pa.table({"mine": [1]}), tmp_path / "out" / "mine.parquet")
    before = files(tmp_path / "out")
    with pytest.raises(InputError, match=r"which holds mine\.parquet that this project did not"):
        embed(corpus, tmp_path / "out", embedder)
    assert files(tmp_path / "out") == before


def test_shards_without_a_manifest_are_refused(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    (tmp_path / "out" / SHARD_MANIFEST).unlink()
    with pytest.raises(InputError, match=r"which holds part-000000\.parquet that this project did"):
        embed(corpus, tmp_path / "out", embedder)


def test_shards_may_be_on_another_filesystem(tmp_path: Path, embedder: Embedder) -> None:
    path = tmp_path / "in" / "a.jsonl"
    corpus = write_corpus(path, [*texts(20), ""])
    folder = ShardFolder("memory://shards/out", Recipe())
    runner = Loop(lambda: embedder)
    embed_corpus(corpus, folder, runner, rows_per_shard=16)
    assert folder.num_dead_letters() == 1
    assert len(folder.shard_names()) == 2
    write_corpus(path, texts(18))
    report = embed_corpus(corpus, folder, runner, rows_per_shard=16)
    assert (report.documents, report.removed, report.dead_letters) == (18, 2, 0)


class TestRelease1:
    @pytest.mark.parametrize("kind", ["whole", "manifest", "name", "footer"])
    def test_its_folder_is_not_continued_and_its_vectors_are_taken(
        self, kind: str, tmp_path: Path, embedder: Embedder
    ) -> None:
        rows = texts(12)
        corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
        out = tmp_path / "out"
        embed(corpus, out, embedder)
        make_release_1(out, kind)
        before = files(out)
        with pytest.raises(InputError, match=r"release 1 made and .* this one as --reuse"):
            embed(corpus, out, embedder)
        assert files(out) == before
        new = ShardFolder(str(tmp_path / "new"))
        report = mirror(corpus, new, embedder, reuse=[ShardFolder(str(out))])
        assert (report.summary.computed, report.summary.reused) == (4, 8)
        expected = embedder.encode_document(rows)
        found = vectors_of(read_shards(tmp_path / "new"))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
        schema = pq.read_schema(tmp_path / "new" / "part-000000.parquet")
        assert schema.field("embedding").type.value_type == pa.float32()

    def test_an_index_is_built_from_its_folder(self, tmp_path: Path, embedder: Embedder) -> None:
        corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(12))
        embed(corpus, tmp_path / "out", embedder)
        make_release_1(tmp_path / "out", "whole")
        assert len(Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))) == 8


def make_release_1(out: Path, kind: str) -> None:
    """Rewrite a folder of one shard as release 1 wrote it, with the first 8 documents.

    It wrote float16, no entries in the footer, shards named by file and row, and another manifest.
    Other kinds than "whole" have only one of these, as a folder that release 2 continued may have.
    """
    manifest = json.loads((out / SHARD_MANIFEST).read_text()) | {"files": {"a": "1"}}
    if kind in ("whole", "manifest"):
        for name in ("number", "keep", "passages", "overlap", "shards"):
            del manifest[name]
    new = out / "part-000000.parquet"
    old = out / f"a-jsonl-{0:016x}-{0:012d}.parquet" if kind in ("whole", "name") else new
    table, metadata = pq.read_table(new).slice(0, 8), pq.ParquetFile(new).metadata.metadata
    numbers = table["embedding"].combine_chunks().flatten().cast(pa.float16())
    column = pa.FixedSizeListArray.from_arrays(numbers, table["embedding"].type.list_size)
    table = table.set_column(2, "embedding", column)
    new.unlink()
    if kind in ("manifest", "name"):
        listed = np.frombuffer(base64.b64decode(metadata[FOOTER_KEY]), ENTRY)[:8]
        table = table.replace_schema_metadata(
            {FOOTER_KEY: base64.b64encode(listed.tobytes())} | (table.schema.metadata or {})
        )
    pq.write_table(table, old)
    (out / SHARD_MANIFEST).write_text(json.dumps(manifest))
    if kind == "whole":
        (out / SHARD_MANIFEST).rename(out / "manifest.json")
        (out / "attempts").mkdir()


class TestDeadLetters:
    def test_they_are_replaced_with_their_shard(self, tmp_path: Path) -> None:
        write_shards(tmp_path / "out", clustered(3, 16))
        folder = ShardFolder(str(tmp_path / "out"))
        shard = folder.read("part-000000.parquet")
        assert shard is not None
        folder.write("part-000000.parquet", shard, [DeadLetter("x", "\x1b[2J\n")])
        assert dead_letters(tmp_path / "out") == {"x": "\x1b[2J\n"}
        (line,) = (tmp_path / "out" / DEAD_LETTERS / "part-000000.jsonl").read_text().splitlines()
        assert line.isprintable()
        folder.write("part-000000.parquet", shard, [])
        assert dead_letters(tmp_path / "out") == {}

    def test_those_of_an_earlier_corpus_go(self, tmp_path: Path, embedder: Embedder) -> None:
        path = tmp_path / "in" / "a.jsonl"
        corpus = write_corpus(path, [*texts(5), " "])
        assert embed(corpus, tmp_path / "out", embedder).num_dead_letters() == 1
        write_corpus(path, texts(5))
        assert embed(corpus, tmp_path / "out", embedder).num_dead_letters() == 0


def test_a_shard_without_documents_is_deleted(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(3, 16))
    folder = ShardFolder(str(tmp_path / "out"))
    write_shard(folder, "part-000000.parquet", [], clustered(3, 16)[:0])
    assert folder.shard_names() == []
    assert folder.read("part-000000.parquet") is None


def test_a_shard_that_is_written_again_has_another_identity(tmp_path: Path) -> None:
    vectors = clustered(3, 16)
    write_shards(tmp_path / "out", vectors)
    folder = ShardFolder(str(tmp_path / "out"))
    before = folder.shards()
    documents = [Document(str(i), f"text {i}") for i in range(3)]
    write_shard(folder, "part-000000.parquet", documents, -vectors)
    assert folder.shards().keys() == before.keys()
    assert folder.shards() != before


@pytest.mark.parametrize("dimensions", [0, -1, 65])
def test_impossible_dimensions_are_refused(
    dimensions: int, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    with pytest.raises(InputError, match=r"^dimensions: received .*; use 1 to 64\.$"):
        embed(corpus, tmp_path / "out", embedder, Recipe(dimensions=dimensions))
    with pytest.raises(InputError, match=r"^dimensions: received 12; use a multiple of 8"):
        embed(corpus, tmp_path / "out", embedder, Recipe(dimensions=12, dtype="binary"))
    assert not (tmp_path / "out").exists()


def test_a_location_that_cannot_be_written_is_named(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"/file/out: cannot be written .*; name another folder\.$"):
        embed(corpus, tmp_path / "file" / "out", embedder)


def test_a_file_is_no_folder_of_shards(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "out").write_text("somebody's own")
    with pytest.raises(InputError, match=r"^shards: received .*which is a file; name a folder\.$"):
        begin(ShardFolder(str(tmp_path / "out"), Recipe()), embedder, corpus)


def test_a_task_that_is_no_unicode_is_refused(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    folder = ShardFolder(str(tmp_path / "out"), Recipe(task="\udcff"))
    with pytest.raises(InputError, match=r"^task: received a lone surrogate"):
        begin(folder, embedder, corpus)
