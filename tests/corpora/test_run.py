"""Every document of a corpus ends in one shard or among the dead letters, killed or not."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from corpus_tools import (
    ROOT,
    begin,
    embed,
    files,
    plan,
    read_shards,
    shard_names,
    texts,
    write_corpus,
)

from e5.corpora.corpus import Corpus, Unit
from e5.corpora.loop import Loop, Model, Summary
from e5.corpora.run import embed_corpus
from e5.corpora.shards import Recipe, ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, checkpoint: Path) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(1500), " ", *texts(500, 1)])
    environment = os.environ | {"E5_WEIGHTS": str(checkpoint), "E5_DTYPE": "float32"}

    def run(out: str) -> "subprocess.Popen[bytes]":
        command = [str(ROOT / "scripts/embed_corpus"), corpus.location, str(tmp_path / out)]
        command += ["--id-column", "id", "--rows-per-shard", "50"]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    assert run("undisturbed").wait() == 3  # one dead letter
    for more in (1, 9, 10):
        process = run("out")
        target = len(shard_names(tmp_path / "out")) + more
        while len(shard_names(tmp_path / "out")) < target and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 20 <= len(shard_names(tmp_path / "out")) < 41
    assert run("out").wait() == 3
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_a_file_that_has_changed_is_refused_a_new_one_is_taken_in(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "b.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    write_corpus(tmp_path / "in" / "a.jsonl", texts(5, 1))
    embed(corpus, tmp_path / "out", embedder)
    assert sorted(read_shards(tmp_path / "out")["id"].to_pylist()) == [
        *(f"a-{i}" for i in range(5)),
        *(f"b-{i}" for i in range(5)),
    ]
    manifest = ShardFolder(str(tmp_path / "out")).manifest()
    assert manifest is not None
    assert list(manifest.files) == ["b.jsonl", "a.jsonl"]
    write_corpus(tmp_path / "in" / "b.jsonl", texts(6))
    with pytest.raises(InputError, match=r"^b\.jsonl: received a file that has changed"):
        embed(corpus, tmp_path / "out", embedder)


def test_a_file_whose_rows_changed_places_is_refused(tmp_path: Path, embedder: Embedder) -> None:
    rows = texts(40)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder)
    path = tmp_path / "in" / "a.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match=r"^a\.jsonl: received a file that has changed"):
        embed(corpus, tmp_path / "out", embedder)


def test_a_file_none_of_whose_rows_is_done_may_be_repaired(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    (tmp_path / "in" / "b.csv").write_text("txet\nsnow\n")
    with pytest.raises(InputError, match=r"^id_column: received 'id'|^text_columns"):
        embed(corpus, tmp_path / "out", embedder)
    (tmp_path / "in" / "b.csv").write_text("id,text\nb-0,snow\n")
    embed(corpus, tmp_path / "out", embedder)
    assert len(read_shards(tmp_path / "out")) == 6


def test_rules_that_no_shard_was_made_by_bind_nobody(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    misspelt = replace(corpus, text_columns=("txet",))
    with pytest.raises(InputError, match=r"^text_columns: received 'txet'.*it has id, text"):
        embed(misspelt, tmp_path / "out", embedder)
    embed(corpus, tmp_path / "out", embedder)
    assert len(read_shards(tmp_path / "out")) == 5


def test_shards_are_never_read_as_documents(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for place in ("in", "in/out", "in/deeper/out", "link/out"):
        with pytest.raises(InputError, match=r"^shards: received .*, inside the corpus"):
            embed(corpus, tmp_path / place, embedder)
    embed(corpus, tmp_path / "in-other", embedder)


def test_what_else_lies_in_the_folder_stays(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "out" / ".git").mkdir(parents=True)
    (tmp_path / "out" / ".profile").write_text("mine")
    embed(corpus, tmp_path / "out", embedder)
    embed(corpus, tmp_path / "out", embedder)
    assert (tmp_path / "out" / ".profile").read_text() == "mine"


def test_a_file_that_grows_after_its_size_was_taken_is_refused_later(
    tmp_path: Path, embedder: Embedder
) -> None:
    path = tmp_path / "in" / "a.jsonl"
    corpus = write_corpus(path, texts(5))
    folder = ShardFolder(str(tmp_path / "out"), Recipe())
    begin(folder, embedder, corpus)
    path.write_text(path.read_text() + '{"id": "late", "text": "late"}\n')
    list(Loop(lambda: embedder).embed_units(plan(corpus), corpus, folder))
    with pytest.raises(InputError, match=r"^a\.jsonl: received a file that has changed"):
        embed(corpus, tmp_path / "out", embedder)


def test_an_empty_shard_is_no_shard(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(20))
    folder = embed(corpus, tmp_path / "out", embedder)
    name = shard_names(tmp_path / "out")[1]
    (tmp_path / "out" / name).write_bytes(b"")
    assert [unit.name for unit in folder.unfinished(plan(corpus))] == [name.partition(".")[0]]
    embed(corpus, tmp_path / "out", embedder)
    assert len(read_shards(tmp_path / "out")) == 20


class Counting:
    """A runner that only says what it is asked to do."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.asked: list[Unit] = []

    def describe(self) -> Model:
        return Model("made-up@0123456789ab", 64)

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        assert folder.manifest() is not None, "it is written before the first unit"
        self.asked += units
        for unit in units:
            documents = list(corpus.read(unit))
            yield Summary(documents=len(documents), tokens=7)


def test_any_runner_is_asked_for_what_is_left_and_its_figures_are_added_up(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(50))
    runner = Counting()
    report = embed_corpus(corpus, ShardFolder(str(tmp_path / "out")), runner, rows_per_shard=20)
    assert runner.asked == corpus.plan(corpus.files(), 20)
    assert (report.summary.documents, report.summary.tokens) == (50, 21)
    assert report.dead_letters == 0
    assert report.elapsed > 0


def test_a_corpus_that_is_not_there_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    def load() -> Embedder:
        raise AssertionError("loaded")

    with pytest.raises(InputError, match=r"^corpus: received .*nowhere; give a file or folder"):
        embed_corpus(Corpus(str(tmp_path / "nowhere")), ShardFolder("out"), Loop(load))


@pytest.mark.parametrize("rows", [0, -1])
def test_a_shard_has_at_least_one_row(rows: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^rows_per_shard: received {rows}; use 1 or more"):
        embed_corpus(Corpus(str(tmp_path)), ShardFolder("out"), Counting(), rows_per_shard=rows)
