"""Whatever happens to a corpus or a disk during a run, nothing is silently lost or mixed."""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from corpus_tools import mirror, write_rows
from mirror_tools import Files, documents_in, documents_of, rows_of, write_files

from e5.corpora.corpus import Corpus
from e5.corpora.loop import Loop
from e5.corpora.plan import Unit
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.synchronize import Model, Summary, embed_corpus
from e5.embedder import Embedder
from e5.errors import InputError


class Disturbed:
    """A loop, and something that happens after some units. A `Runner`."""

    def __init__(self, embedder: Embedder, after: int, disturb: Callable[[], None]) -> None:
        """`disturb` is called once, `after` this unit; 0: at the end of every pass."""
        self._loop, self._after, self._disturb = Loop(lambda: embedder), after, disturb

    def describe(self) -> Model:
        return self._loop.describe()

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        for number, summary in enumerate(self._loop.embed_units(units, corpus, folder)):
            yield summary
            if self._after and number == self._after:
                self._after = 10**9
                self._disturb()
        if not self._after:
            self._disturb()


class TestAccidents:
    @pytest.mark.parametrize("accident", ["no files", "no rows"])
    def test_an_empty_corpus_deletes_nothing_unless_allowed(
        self, accident: str, tmp_path: Path, embedder: Embedder
    ) -> None:
        corpus = write_files(tmp_path / "in", {"a.jsonl": rows_of(9)})
        folder = ShardFolder(str(tmp_path / "out"))
        mirror(corpus, folder, embedder)
        if accident == "no files":
            (tmp_path / "in" / "a.jsonl").unlink()
        else:
            (tmp_path / "in" / "a.jsonl").write_text("")
        with pytest.raises(InputError, match=r"which holds no documents; .*--allow-empty"):
            mirror(corpus, folder, embedder)
        assert len(documents_in(tmp_path / "out")) == 9
        assert mirror(corpus, folder, embedder, allow_empty=True).removed == 9
        assert documents_in(tmp_path / "out") == {}
        assert mirror(corpus, folder, embedder, allow_empty=True).removed == 0

    @pytest.mark.parametrize("change", ["rewritten", "shortened", "replaced", "removed", "added"])
    def test_files_that_change_during_a_run_are_read_again(
        self, change: str, tmp_path: Path, embedder: Embedder
    ) -> None:
        files: Files = {"a.jsonl": rows_of(20), "b.jsonl": rows_of(20, 20)}
        corpus = write_files(tmp_path / "in", files)
        others = [row | {"text": f"other {row['id']}"} for row in rows_of(20, 20)]

        def disturb() -> None:
            path = tmp_path / "in" / "b.jsonl"
            if change == "replaced":
                write_rows(tmp_path / "new", others)
                (tmp_path / "new").rename(path)
                files["b.jsonl"] = others
            elif change == "removed":
                path.unlink()
                del files["b.jsonl"]
            elif change == "added":
                write_rows(tmp_path / "in" / "c.jsonl", rows_of(3, 40))
                files["c.jsonl"] = rows_of(3, 40)
            else:
                files["b.jsonl"] = others[:12] if change == "rewritten" else rows_of(7, 20)
                write_rows(path, files["b.jsonl"])

        runner = Disturbed(embedder, after=1, disturb=disturb)
        folder = ShardFolder(str(tmp_path / "out"))
        report = embed_corpus(corpus, folder, runner, rows_per_shard=8)
        assert report.changing == []
        assert documents_in(tmp_path / "out") == documents_of(files)

    def test_a_file_that_always_changes_is_named(self, tmp_path: Path, embedder: Embedder) -> None:
        corpus = write_files(tmp_path / "in", {"a.jsonl": rows_of(5), "log.jsonl": rows_of(5, 5)})
        count = itertools.count(10)

        def disturb() -> None:
            with (tmp_path / "in" / "log.jsonl").open("a") as file:
                file.write(json.dumps(rows_of(1, next(count))[0]) + "\n")

        folder = ShardFolder(str(tmp_path / "out"))
        report = embed_corpus(corpus, folder, Disturbed(embedder, after=0, disturb=disturb))
        assert report.changing == ["log.jsonl"]
        rest = mirror(corpus, folder, embedder)
        assert rest.changing == []
        assert rest.documents == next(count)

    def test_a_second_run_at_the_same_time_is_refused(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        corpus = write_files(tmp_path / "in", {"a.jsonl": rows_of(20)})
        folder = ShardFolder(str(tmp_path / "out"))

        def disturb() -> None:
            with pytest.raises(InputError, match="that another run is writing to"):
                mirror(corpus, folder, embedder)

        embed_corpus(corpus, folder, Disturbed(embedder, after=0, disturb=disturb))
        assert len(documents_in(tmp_path / "out")) == 20

    def test_a_full_disk_is_one_sentence_and_the_next_run_continues(
        self, tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        corpus = write_files(tmp_path / "in", {"a.jsonl": rows_of(40)})
        folder = ShardFolder(str(tmp_path / "out"))
        with monkeypatch.context() as patch:
            writes, replace = itertools.count(), os.replace

            def full(source: str, target: str) -> None:
                if ".parquet" in target and next(writes) == 2:
                    raise OSError(28, "No space left on device")
                replace(source, target)

            patch.setattr(os, "replace", full)
            with pytest.raises(OSError, match=r"cannot be written \(.*No space left.*run again"):
                mirror(corpus, folder, embedder, 8)
        written = len(documents_in(tmp_path / "out"))
        assert 16 <= written < 40
        assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []
        assert mirror(corpus, folder, embedder, 8).summary.computed == 40 - written
