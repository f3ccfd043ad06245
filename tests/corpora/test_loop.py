"""Each row of a unit ends in its shard or among its dead letters, whatever its neighbours are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import EditCheckpoint
from corpus_tools import (
    begin,
    dead_letters,
    embed,
    files,
    mirror,
    read_shards,
    shard_names,
    texts,
    units,
    vectors_of,
    write_corpus,
)

from e5.corpora.corpus import Corpus
from e5.corpora.documents import PassageSize
from e5.corpora.loop import Loop
from e5.corpora.plan import Unit
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError, OutOfMemoryError
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.vectors import Vectors


def test_a_continued_run_writes_the_same_bytes(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(60), "", *texts(30, 1)])
    embed(corpus, tmp_path / "undisturbed", embedder)
    folder = ShardFolder(str(tmp_path / "out"), Recipe())
    for done in (1, 2, 1):
        begin(folder, embedder, corpus)
        missing = units(corpus, folder)
        running = Loop(lambda: embedder).embed_units(missing, corpus, folder)
        for _ in range(done):
            next(running)
        running.close()
        # A kill leaves this of a file that was being written.
        (tmp_path / "out" / f".{missing[-1].name}.parquet.{0:032x}").write_bytes(b"half a shard")
    embed(corpus, tmp_path / "out", embedder)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "undisturbed")


def shards_of(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if "manifest" not in name}


def test_doing_a_unit_twice_is_doing_it_once(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(20))
    folder = embed(corpus, tmp_path / "out", embedder)
    write_corpus(tmp_path / "in" / "a.jsonl", ["changed", *texts(12)[1:], "new"])
    changed = units(corpus, folder)
    loop = Loop(lambda: embedder)
    first = list(loop.embed_units(changed, corpus, folder))
    assert sum(summary.documents for summary in first) == 2
    before = folder.shards()
    again = list(loop.embed_units(changed, corpus, folder))
    assert sum(summary.documents for summary in again) == 0
    assert folder.shards() == before  # nothing was written
    assert sorted(read_shards(tmp_path / "out")["text"].to_pylist()) == sorted(
        ["changed", *texts(12)[1:], "new"]
    )


def test_a_row_that_changed_after_it_was_listed_is_left_out(
    tmp_path: Path, embedder: Embedder
) -> None:
    path = tmp_path / "in" / "a.jsonl"
    corpus = write_corpus(path, texts(20))
    folder = ShardFolder(str(tmp_path / "out"), Recipe())
    begin(folder, embedder, corpus)
    listed = units(corpus, folder)
    write_corpus(path, [*texts(10), "another", *texts(19)[11:]])
    done = list(Loop(lambda: embedder).embed_units(listed, corpus, folder))
    assert sum(summary.documents for summary in done) == 18  # one changed, one was deleted
    kept = [f"a-{i}" for i in range(19) if i != 10]
    assert read_shards(tmp_path / "out")["id"].to_pylist() == kept


def test_a_document_without_a_finite_vector_loses_no_neighbour(
    tmp_path: Path, checkpoint: Path, edit_checkpoint: EditCheckpoint, embedder: Embedder
) -> None:
    word = embedder.prompt_tokenizer.tokenizer.encode(["zebra"])[0].token_ids[-2]

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


def test_a_file_that_disappears_during_a_run_stops_it(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(40))
    folder = ShardFolder(str(tmp_path / "out"), Recipe())
    begin(folder, embedder, corpus)
    listed = units(corpus, folder)
    (tmp_path / "in" / "a.jsonl").unlink()
    with pytest.raises(InputError, match=r"^a\.jsonl: received a file that cannot be read"):
        list(Loop(lambda: embedder).embed_units(listed, corpus, folder))
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


def test_equal_texts_are_computed_once(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", ["snow"] * 10 + ["rain"] * 5)
    folder = ShardFolder(str(tmp_path / "out"), Recipe(dtype="float32"))
    report = mirror(corpus, folder, embedder)
    assert report.summary.tokens == sum(
        len(encoding.token_ids) for encoding in embedder.tokenize(["snow", "rain"], task="")
    )
    expected = embedder.encode_document(["snow"] * 10 + ["rain"] * 5)
    np.testing.assert_allclose(vectors_of(read_shards(tmp_path / "out")), expected, atol=1e-5)


class TestPassages:
    RECIPE = Recipe(dtype="float32", passage_size=PassageSize(12, 3), task="sts_query")

    def test_each_passage_has_the_vector_of_its_own_text(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        rows = ["one. " * 40, "short", " ".join(texts(5))]
        corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
        embed(corpus, tmp_path / "out", embedder, self.RECIPE)
        table = read_shards(tmp_path / "out")
        for row in table.drop_columns("embedding").to_pylist():
            document = rows[int(row["document"].removeprefix("a-"))].strip()
            assert row["text"] == document[row["start"] : row["end"]]
        assert table["id"].to_pylist()[:2] == ["a-0#0", "a-0#1"]
        assert "a-1#0" in table["id"].to_pylist()
        expected = embedder.encode_query(table["text"].to_pylist(), task="sts_query")
        np.testing.assert_allclose(vectors_of(table), expected, atol=1e-5)

    def test_only_new_passages_of_a_changed_document_are_computed(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        rows = [". ".join(f"Sentence {i} of {j}" for i in range(9)) for j in range(3)]
        path = tmp_path / "in" / "a.jsonl"
        folder = ShardFolder(
            str(tmp_path / "out"), replace(self.RECIPE, passage_size=PassageSize(12))
        )
        mirror(write_corpus(path, rows), folder, embedder)
        before = len(read_shards(tmp_path / "out"))
        rows[1] += ". And one more"
        report = mirror(write_corpus(path, rows), folder, embedder)
        assert report.documents == 3
        assert 1 <= report.summary.computed <= 2
        assert report.summary.reused >= 5
        assert before <= len(read_shards(tmp_path / "out")) <= before + 1
