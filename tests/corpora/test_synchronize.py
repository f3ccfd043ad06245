"""Every document of a corpus ends in one shard or among the dead letters, killed or not."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from corpus_tools import embed, files, texts, write_corpus

from e5.corpora.corpus import Corpus
from e5.corpora.loop import Loop
from e5.corpora.plan import Unit
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.synchronize import Model, Summary, embed_corpus
from e5.embedder import Embedder
from e5.errors import InputError

# Runs in processes of their own, each but the last of which is killed while it writes a shard. They
# are forks of one, which imports and computes nothing else, because starting takes seconds.
RUNS = """
import itertools, os, signal, sys
from functools import partial
from e5.corpora.corpus import Corpus
from e5.corpora.loop import Loop
from e5.corpora.synchronize import embed_corpus
from e5.corpora.shard_folder import ShardFolder
from e5.embedder import Embedder
from e5.settings import Settings

location, out, weights, *kills = sys.argv[1:]
for kill in kills:
    process = os.fork()
    if not process:
        replace, shards = os.replace, itertools.count(1)

        def replace_or_die(source, target):
            if target.endswith(".parquet") and next(shards) == int(kill):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = replace_or_die
        settings = Settings(weights=weights, device="cpu", dtype="float32")
        loop = Loop(partial(Embedder.load, settings))
        embed_corpus(Corpus(location, id_column="id"), ShardFolder(out), loop, rows_per_shard=16)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(status, len(ShardFolder(out).shard_names()))
"""


@pytest.mark.slow
def test_a_killed_run_is_continued_where_it_was(
    tmp_path: Path, checkpoint: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(150), " ", *texts(50, 1)])
    embed(corpus, tmp_path / "undisturbed", embedder)
    arguments = [corpus.location, str(tmp_path / "out"), str(checkpoint)]
    command = [sys.executable, "-c", RUNS, *arguments, "1", "3", "8", "0"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Each run writes only the shards that are missing.
    assert printed.splitlines() == ["-9 0", "-9 2", "-9 9", "0 13"]
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "undisturbed")


def shards_of(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if "manifest" not in name}


def test_shards_are_never_read_as_documents(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in ("in", "in/out", "in/deeper/out", "link/out"):
        with pytest.raises(InputError, match=r"^shards: received .*, inside the corpus"):
            embed(corpus, tmp_path / folder, embedder)
    embed(corpus, tmp_path / "in-other", embedder)


def test_other_files_in_the_folder_stay(tmp_path: Path, embedder: Embedder) -> None:
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
    """A runner that only keeps the units that it is given."""

    def __init__(self) -> None:
        """Start without units."""
        self.units: list[Unit] = []

    def describe(self) -> Model:
        return Model("made-up@0123456789ab", 64)

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        assert isinstance(corpus, Corpus)
        assert folder.manifest() is not None, "it is written before the first unit"
        self.units += units
        for unit in units:
            yield Summary(documents=unit.num_documents, tokens=7)


def test_a_runner_gets_the_units_and_its_figures_are_added_up(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(50))
    runner = Counting()
    report = embed_corpus(corpus, ShardFolder(str(tmp_path / "out")), runner, rows_per_shard=20)
    assert [unit.num_documents for unit in runner.units] == [20, 20, 10]
    assert (report.summary.documents, report.summary.tokens) == (50, 21)
    assert report.dead_letters == 0
    assert report.elapsed > 0


def test_a_missing_corpus_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    def load() -> Embedder:
        raise AssertionError("loaded")

    with pytest.raises(InputError, match=r"^corpus: received .*nowhere; give a file or folder"):
        embed_corpus(Corpus(str(tmp_path / "nowhere")), ShardFolder("out"), Loop(load))


@pytest.mark.parametrize("rows", [0, -1])
def test_a_shard_has_at_least_one_row(rows: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^rows_per_shard: received {rows}; use 1 or more"):
        embed_corpus(Corpus(str(tmp_path)), ShardFolder("out"), Counting(), rows_per_shard=rows)
