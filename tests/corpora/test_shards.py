"""A folder of shards holds what it says, and nothing of another make is put into it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import (
    begin,
    embed,
    files,
    plan,
    read_shards,
    shard_names,
    texts,
    vectors_of,
    write_corpus,
)

from e5.corpora.loop import Loop
from e5.corpora.shards import DEAD_LETTERS, Recipe, ShardFolder
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


def test_shards_are_compressed_as_measured_best(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(9))
    embed(corpus, tmp_path / "out", embedder)
    (name,) = shard_names(tmp_path / "out")
    file = pq.ParquetFile(tmp_path / "out" / name)
    numbers = file.metadata.row_group(0).column(2)
    assert numbers.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in numbers.encodings
    hidden = embedder.dimensions
    assert file.schema_arrow.field("embedding").type == pa.list_(pa.float16(), hidden)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "sts_query"}, "task '', for 'sts_query'"),
        ({"dimensions": 8}, "dimensions 64, for 8"),
        ({"normalize": True}, "normalize False, for True"),
        ({"dtype": "float32"}, "dtype 'float16', for 'float32'"),
    ],
)
def test_other_rules_are_refused_and_both_named(
    change: dict[str, object], named: str, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    with pytest.raises(InputError, match=named):
        embed(corpus, tmp_path / "out", embedder, replace(Recipe(), **change))  # type: ignore[arg-type]


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
    moved = "moved@" + embedder.name.partition("@")[2]
    folder.begin(moved, 64, corpus, corpus.files(), 16)


def test_a_parquet_file_of_somebody_else_is_no_shard(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    pq.write_table(read_shards(tmp_path / "out"), tmp_path / "out" / "mine.parquet")
    assert len(shard_names(tmp_path / "out")) == 1


@pytest.mark.parametrize("stores", [(), ("py::fsspec+memory",)])
def test_shards_may_lie_far_away(
    stores: tuple[str, ...], tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "e5.corpora.storage.OBJECT_STORES", stores
    )  # which show no half of an object
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(20), ""])
    where = f"memory://shards-{len(stores)}/out"
    folder = ShardFolder(where, Recipe())
    begin(folder, embedder, corpus)
    for _ in Loop(lambda: embedder).embed_units(plan(corpus), corpus, folder):
        pass
    assert folder.unfinished(plan(corpus)) == []
    assert folder.num_dead_letters() == 1
    assert len(folder.shard_names()) == 2


def test_dead_letters_of_a_killed_attempt_do_not_outlive_it(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (unit,) = plan(corpus)
    (tmp_path / "out" / DEAD_LETTERS).mkdir(parents=True)
    stale = tmp_path / "out" / DEAD_LETTERS / f"{unit.name}.jsonl"
    stale.write_text('{"id": "a-1", "reason": "no memory then"}\n')
    assert embed(corpus, tmp_path / "out", embedder).num_dead_letters() == 0


@pytest.mark.parametrize("dimensions", [0, -1, 65])
def test_dimensions_that_cannot_be_are_refused(
    dimensions: int, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    with pytest.raises(InputError, match=r"^dimensions: received .*; use 1 to 64\.$"):
        embed(corpus, tmp_path / "out", embedder, Recipe(dimensions=dimensions))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"/file/out/manifest\.json: cannot be written .*run again"):
        embed(corpus, tmp_path / "file" / "out", embedder)


def test_shards_that_no_manifest_knows_are_nobody_s(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    out = tmp_path / "out"
    embed(corpus, out, embedder)
    (out / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"^shards: received .*lacks the files of 1 shards; name"):
        begin(ShardFolder(str(out), Recipe()), embedder, corpus)
    assert not (out / "manifest.json").exists()


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
