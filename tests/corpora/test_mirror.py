"""A folder mirrors its corpus, and an index its folder, whatever happened in between."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpus_tools import dead_letters, mirror, read_shards, texts, vectors_of, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from mirror_tools import Files, documents_in, documents_of, rows_of, write_files

from e5.corpora.corpus import Corpus
from e5.corpora.documents import PassageSize
from e5.corpora.formats import TextFormat
from e5.corpora.index import Index
from e5.corpora.loop import Loop
from e5.corpora.plan import Unit
from e5.corpora.shard_folder import BACKUPS, Recipe, ShardFolder
from e5.corpora.synchronize import Model, Summary, embed_corpus
from e5.embedder import Embedder
from e5.errors import InputError


class KilledError(Exception):
    """Stands for the end of the process."""


class Mortal:
    """A loop that is killed after some units. A `Runner`."""

    def __init__(self, embedder: Embedder, units: int) -> None:
        """`units` is the number of units that it does before."""
        self._loop, self._units = Loop(lambda: embedder), units
        self.described = 0

    def describe(self) -> Model:
        self.described += 1
        return self._loop.describe()

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        yield from self._loop.embed_units(units[: self._units], corpus, folder)
        if len(units) > self._units:
            raise KilledError


ROWS = st.fixed_dictionaries(
    {
        "id": st.integers(0, 25).map(str),
        "text": st.sampled_from(texts(12)),
        "year": st.integers(2020, 2022),
    }
)
FILES = st.dictionaries(
    st.sampled_from(["a.jsonl", "b.csv", "c.parquet"]),
    st.lists(ROWS, min_size=1, max_size=15),
    min_size=1,
)


@pytest.mark.slow
@settings(max_examples=25)
@given(history=st.lists(st.tuples(FILES, st.integers(0, 6), st.booleans()), min_size=1, max_size=4))
def test_any_history_ends_as_if_there_had_been_none(
    history: list[tuple[Files, int, bool]],
    embedder: Embedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("mirror")
    folder, index = ShardFolder(str(home / "out"), Recipe(dtype="float32")), str(home / "index")
    before: dict[str, tuple[str, int]] = {}
    for files, units, builds_index in history:
        corpus, now = write_files(home / "in", files), documents_of(files)
        runner = Mortal(embedder, units)
        try:
            embed_corpus(corpus, folder, runner, rows_per_shard=4)
        except KilledError:
            seen = documents_in(home / "out")
            for name in before.keys() & now.keys():  # old or new, each of them
                assert seen[name] in (before[name], now[name])
            assert seen.items() <= before.items() | now.items()
        assert runner.described == 1  # a cluster loads the model for it
        report = mirror(corpus, folder, embedder, 4)
        assert documents_in(home / "out") == now
        assert report.documents == len(now)
        if builds_index:
            assert len(Index.build(folder, index)) == len(now)
        before = now
    table = read_shards(home / "out")
    expected = embedder.encode_document(table["text"].to_pylist())
    np.testing.assert_allclose(vectors_of(table), expected, atol=1e-5)
    hits = Index.build(folder, index).search(expected[0], len(table))
    assert {hit.id: (hit.text, hit.values["year"]) for hit in hits} == now
    assert not list((home / "out").glob(f"{BACKUPS}/*"))
    assert mirror(corpus, folder, embedder, 4).summary.documents == 0


def counted(home: Path, embedder: Embedder, files: Files, **options: Any) -> tuple[int, int, int]:
    """What a run computed, reused, removed."""
    report = mirror(
        write_files(home / "in", files), ShardFolder(str(home / "out")), embedder, 8, **options
    )
    assert documents_in(home / "out") == documents_of(files)
    return report.summary.computed, report.summary.reused, report.removed


class TestWhatIsComputed:
    def test_only_texts_that_are_new(self, tmp_path: Path, embedder: Embedder) -> None:
        rows = rows_of(30)
        assert counted(tmp_path, embedder, {"a.jsonl": rows}) == (30, 0, 0)
        assert counted(tmp_path, embedder, {"a.jsonl": rows}) == (0, 0, 0)
        assert counted(tmp_path, embedder, {"a.jsonl": rows, "b.csv": rows_of(5, 30)}) == (5, 0, 0)
        changed = [rows[0] | {"text": "another"}, *rows[1:]]
        assert counted(tmp_path, embedder, {"a.jsonl": changed}) == (1, 0, 5)
        assert counted(tmp_path, embedder, {"a.jsonl": changed[3:]}) == (0, 0, 3)

    def test_nothing_for_rows_that_moved(self, tmp_path: Path, embedder: Embedder) -> None:
        rows = rows_of(30)
        counted(tmp_path, embedder, {"a.jsonl": rows})
        random.Random(0).shuffle(rows)
        assert counted(tmp_path, embedder, {"x.jsonl": rows[:9], "y.json": rows[9:]}) == (0, 0, 0)

    def test_nothing_for_rows_without_ids_that_moved(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        folder = ShardFolder(str(tmp_path / "out"))
        orders = [
            list(range(40)), [39, *range(39)], list(reversed(range(40))),
            random.Random(1).sample(range(40), 40), list(range(5, 40)),
        ]  # fmt: skip
        for number, order in enumerate(orders):
            write_files(
                tmp_path / "in", {"a.jsonl": rows_of(0), "b.jsonl": [rows_of(40)[i] for i in order]}
            )
            report = mirror(Corpus(str(tmp_path / "in")), folder, embedder, 8)
            assert report.summary.computed == (40 if number == 0 else 0)
            table = read_shards(tmp_path / "out")
            found = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
            assert found == {f"b.jsonl:{row}": f"text {i}" for row, i in enumerate(order)}
            expected = embedder.encode_document(table["text"].to_pylist())
            np.testing.assert_allclose(vectors_of(table), expected, rtol=2e-3, atol=2e-3)

    def test_nothing_for_other_values_or_another_id(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        rows = rows_of(20)
        counted(tmp_path, embedder, {"a.jsonl": rows})
        rows = [row | {"year": 99} for row in rows]
        assert counted(tmp_path, embedder, {"a.jsonl": rows}) == (0, 20, 0)
        rows = [row | {"id": row["id"] + "x"} for row in rows]
        assert counted(tmp_path, embedder, {"a.jsonl": rows}) == (0, 20, 20)

    def test_nothing_that_another_folder_has(self, tmp_path: Path, embedder: Embedder) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        counted(tmp_path / "one", embedder, {"a.jsonl": rows_of(20)})
        other = ShardFolder(str(tmp_path / "one" / "out"))
        files: Files = {"a.csv": rows_of(25)}
        assert counted(tmp_path / "two", embedder, files, reuse=[other]) == (5, 20, 0)
        found = vectors_of(read_shards(tmp_path / "two" / "out"))
        expected = embedder.encode_document([row["text"] for row in files["a.csv"]])
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize(
        ("recipe", "named"),
        [(Recipe(task="sts_query"), "task"), (Recipe(dimensions=8), "dimensions"),
         (Recipe(dtype="int8"), "dtype")],
    )  # fmt: skip
    def test_vectors_of_another_kind_are_not_taken(
        self, recipe: Recipe, named: str, tmp_path: Path, embedder: Embedder
    ) -> None:
        corpus = write_files(tmp_path / "in", {"a.jsonl": rows_of(5)})
        mirror(corpus, ShardFolder(str(tmp_path / "other"), recipe), embedder)
        folder = ShardFolder(str(tmp_path / "out"))
        for other in (ShardFolder(str(tmp_path / "other")), ShardFolder(str(tmp_path / "none"))):
            with pytest.raises(InputError, match=rf"^reuse: received .*({named}|no vectors of)"):
                mirror(corpus, folder, embedder, reuse=[other])

    def test_a_shard_that_somebody_deleted_is_made_again(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        counted(tmp_path, embedder, {"a.jsonl": rows_of(20)})
        (tmp_path / "out" / "part-000001.parquet").unlink()
        assert counted(tmp_path, embedder, {"a.jsonl": rows_of(20)}) == (8, 0, 0)
        (tmp_path / "out" / "part-000001.parquet").write_bytes(b"")
        assert counted(tmp_path, embedder, {"a.jsonl": rows_of(20)}) == (8, 0, 0)


class TestDuplicates:
    def test_the_last_row_of_an_id_counts_and_the_others_are_named(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        files: Files = {
            "a.jsonl": [*rows_of(3), rows_of(1)[0] | {"text": "once more"}],
            "b.jsonl": [rows_of(1, 2)[0] | {"text": "elsewhere"}],
        }
        report = mirror(
            write_files(tmp_path / "in", files), ShardFolder(str(tmp_path / "out")), embedder
        )
        assert documents_in(tmp_path / "out") == documents_of(files)
        assert report.duplicates == ["a.jsonl:0 (d0)", "a.jsonl:2 (d2)"]
        assert dead_letters(tmp_path / "out") == {
            "d0": "a.jsonl:0: its id comes again in a.jsonl:3, which counts",
            "d2": "a.jsonl:2: its id comes again in b.jsonl:0, which counts",
        }
        assert report.dead_letters == 2

    def test_a_row_counts_again_when_a_later_one_with_its_id_is_removed(
        self, tmp_path: Path, embedder: Embedder
    ) -> None:
        first = {"a.jsonl": rows_of(2), "b.jsonl": [rows_of(1)[0] | {"text": "newer"}]}
        assert counted(tmp_path, embedder, first) == (2, 0, 0)
        assert counted(tmp_path, embedder, {"a.jsonl": rows_of(2)}) == (1, 0, 0)


class TestKept:
    def test_types_come_through(self, tmp_path: Path, embedder: Embedder) -> None:
        (tmp_path / "in").mkdir()
        write_rows(tmp_path / "in" / "a.csv", [{"text": "one", "n": 1.5, "on": "2024-02-29"}])
        corpus = Corpus(str(tmp_path / "in"), keep=("n", "on"))
        folder = ShardFolder(str(tmp_path / "out"))
        mirror(corpus, folder, embedder)
        schema = read_shards(tmp_path / "out").schema
        assert (schema.field("n").type, schema.field("on").type) == (pa.float64(), pa.date32())
        write_rows(tmp_path / "in" / "b.csv", [{"text": "two", "n": 2, "on": ""}])
        mirror(corpus, folder, embedder)
        assert read_shards(tmp_path / "out")["n"].to_pylist() == [1.5, 2]
        write_rows(tmp_path / "in" / "c.csv", [{"text": "three", "n": "many", "on": ""}])
        with pytest.raises(InputError, match=r"^keep: received 'n', which now holds text; the"):
            mirror(corpus, folder, embedder)

    def test_other_columns_are_other_rules(self, tmp_path: Path, embedder: Embedder) -> None:
        corpus = write_files(tmp_path / "in", {"a.jsonl": rows_of(3)})
        folder = ShardFolder(str(tmp_path / "out"))
        mirror(corpus, folder, embedder)
        with pytest.raises(InputError, match=r"with keep \[.*'year'.*\], not \[\]; .* as --reuse"):
            mirror(Corpus(corpus.location, id_column="id"), folder, embedder)


def test_a_file_that_is_read_in_another_encoding_is_read_again(
    tmp_path: Path, embedder: Embedder
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_bytes("text\ncaf\xe9\nplain\n".encode("latin-1"))
    corpus, folder = Corpus(str(tmp_path / "in")), ShardFolder(str(tmp_path / "out"))
    assert mirror(corpus, folder, embedder).dead_letters == 1
    corpus = replace(corpus, text_format=TextFormat(encoding="latin-1"))
    report = mirror(corpus, folder, embedder)
    assert (report.summary.computed, report.documents, report.dead_letters) == (1, 2, 0)
    assert mirror(corpus, folder, embedder).summary.computed == 0


def test_passages_of_a_removed_document_are_removed(tmp_path: Path, embedder: Embedder) -> None:
    rows = [{"id": f"d{i}", "text": f"Sentence {i}. " * 30, "year": i} for i in range(4)]
    folder = ShardFolder(str(tmp_path / "out"), Recipe(passage_size=PassageSize(16)))
    corpus = write_files(tmp_path / "in", {"a.jsonl": rows})
    mirror(corpus, folder, embedder, 10)
    index = Index.build(folder, str(tmp_path / "index"))
    assert len(index) > 8
    corpus = write_files(tmp_path / "in", {"a.jsonl": rows[1:]})
    assert mirror(corpus, folder, embedder, 10).removed == 1
    table = read_shards(tmp_path / "out")
    assert set(table["document"].to_pylist()) == {"d1", "d2", "d3"}
    assert len(Index.build(folder, str(tmp_path / "index"))) == len(table)
