"""Every document of a corpus ends in one shard or among the dead letters, killed or not."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from corpus_tools import (
    ROOT,
    embed,
    files,
    shard_names,
    texts,
    write_corpus,
)

from e5.corpora.corpus import Corpus
from e5.corpora.loop import Loop
from e5.corpora.plan import Unit
from e5.corpora.run import embed_corpus
from e5.corpora.runner import Model, Summary
from e5.corpora.shard_folder import ShardFolder
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
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "undisturbed")


def shards_of(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if "manifest" not in name}


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
    for name in ("attempts", "dead-letters"):  # which an older version had, but not here
        (tmp_path / "out" / name).mkdir()
        (tmp_path / "out" / name / "mine").write_text("mine")
    embed(corpus, tmp_path / "out", embedder)
    embed(corpus, tmp_path / "out", embedder)
    assert (tmp_path / "out" / ".profile").read_text() == "mine"
    for name in ("attempts", "dead-letters"):
        assert (tmp_path / "out" / name / "mine").read_text() == "mine"


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
        assert isinstance(corpus, Corpus)
        assert folder.manifest() is not None, "it is written before the first unit"
        self.asked += units
        for unit in units:
            yield Summary(documents=unit.num_documents, tokens=7)


def test_any_runner_is_asked_for_what_is_left_and_its_figures_are_added_up(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(50))
    runner = Counting()
    report = embed_corpus(corpus, ShardFolder(str(tmp_path / "out")), runner, rows_per_shard=20)
    assert [unit.num_documents for unit in runner.asked] == [20, 20, 10]
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
