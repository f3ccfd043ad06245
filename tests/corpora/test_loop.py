"""Each row of a unit ends in its shard or among its dead letters, whatever its neighbours are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EditCheckpoint
from corpus_tools import (
    begin,
    dead_letters,
    embed,
    files,
    plan,
    read_shards,
    shard_names,
    texts,
    vectors_of,
    write_corpus,
)

from e5.corpora.corpus import Corpus, Unit
from e5.corpora.loop import Loop
from e5.corpora.shards import Recipe, ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError, OutOfMemoryError
from e5.packing import TokenIds
from e5.settings import Settings
from e5.vectors import Vectors


def test_a_run_taken_up_again_gives_the_same_bytes(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(60), "", *texts(30, 1)])
    embed(corpus, tmp_path / "undisturbed", embedder)
    folder = ShardFolder(str(tmp_path / "out"), Recipe())
    units = plan(corpus)
    for done in (1, 2, 1):
        begin(folder, embedder, corpus)
        running = Loop(lambda: embedder).embed_units(folder.unfinished(units), corpus, folder)
        for _ in range(done):
            next(running)
        running.close()
        # What a kill leaves of a file that was being written:
        (tmp_path / "out" / f".{units[-1].name}.parquet.{0:032x}").write_bytes(b"half a shard")
    embed(corpus, tmp_path / "out", embedder)
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_a_document_without_a_finite_vector_loses_no_neighbour(
    tmp_path: Path, checkpoint: Path, edit_checkpoint: EditCheckpoint, embedder: Embedder
) -> None:
    word = embedder._tokenizer.encode(["zebra"])[0].token_ids[-2]

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["embed_tokens.weight"][word] = float("nan")

    folder = edit_checkpoint(checkpoint, poison)
    poisoned = Embedder.load(Settings(weights=folder, device="cpu", dtype="float32"))
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*rows[:10], "a zebra", *rows[10:]])
    embed(corpus, tmp_path / "out", poisoned)
    assert list(dead_letters(tmp_path / "out")) == ["a-10"]
    table = read_shards(tmp_path / "out")
    assert table["text"].to_pylist() == rows
    np.testing.assert_allclose(vectors_of(table), poisoned.encode_document(rows), atol=1e-2)


def test_a_document_too_large_for_memory_loses_no_neighbour(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = embedder._engine.compute

    def small_memory(sequences: list[TokenIds], *, share_prefixes: bool) -> Vectors:
        if max(map(len, sequences)) > 200:
            raise OutOfMemoryError(201)
        return compute(sequences, share_prefixes=share_prefixes)

    monkeypatch.setattr(embedder._engine, "compute", small_memory)
    rows = [*texts(3), "long " * 300, *texts(3, 1)]
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder)
    assert list(dead_letters(tmp_path / "out")) == ["a-3"]
    assert read_shards(tmp_path / "out")["id"].to_pylist() == [f"a-{i}" for i in (0, 1, 2, 4, 5, 6)]


def test_what_a_file_loses_while_it_is_read_stops_the_run(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(40))
    units = plan(corpus)
    (tmp_path / "in" / "a.jsonl").unlink()
    folder = ShardFolder(str(tmp_path / "out"), Recipe())
    with pytest.raises(InputError, match=r"^a\.jsonl: received what cannot be read"):
        list(Loop(lambda: embedder).embed_units(units, corpus, folder))
    assert shard_names(tmp_path / "out") == []


def test_no_units_are_no_work(tmp_path: Path, embedder: Embedder) -> None:
    none: list[Unit] = []
    folder = ShardFolder(str(tmp_path), Recipe())
    assert list(Loop(lambda: embedder).embed_units(none, Corpus("nowhere"), folder)) == []


def test_task_dimensions_and_normalize_do_what_they_do_in_a_request(
    tmp_path: Path, embedder: Embedder
) -> None:
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    recipe = Recipe(task="sts_query", normalize=True, dimensions=8, dtype="float32")
    embed(corpus, tmp_path / "out", embedder, recipe)
    expected = embedder.encode_query(rows, task="sts_query", normalize=True, dimensions=8)
    np.testing.assert_allclose(vectors_of(read_shards(tmp_path / "out")), expected, atol=1e-5)


def test_a_unit_of_dead_letters_only_is_done_all_the_same(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", ["", " ", "\n"])
    folder = embed(corpus, tmp_path / "out", embedder)
    assert folder.num_dead_letters() == 3
    assert len(read_shards(tmp_path / "out")) == 0
    assert folder.unfinished(plan(corpus)) == []
