"""Units make a folder hold the corpus, whatever it held, in any order and done twice."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.formats import ReadPosition
from e5.corpora.inventory import Inventory, InventoryBuilder, compare
from e5.corpora.plan import Unit, plan

FILES = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=15), min_size=1, max_size=3
)


def inventory_of(groups: dict[str, list[tuple[int, int]]], size: int = 1) -> Inventory:
    builder = InventoryBuilder()
    for name, documents in groups.items():
        builder.begin(name)
        for row, (key, content) in enumerate(documents):
            builder.add((key, key * 100 + content, content), row, size)
    return builder.build()


class Folder:
    """Shards as a dictionary, and what doing a unit does to them."""

    def __init__(self) -> None:
        """Start without shards."""
        self.shards: dict[str, list[tuple[int, int]]] = {}

    def plan(self, files: dict[str, list[tuple[int, int]]], rows: int) -> list[Unit]:
        corpus, stored = inventory_of(files), inventory_of(dict(sorted(self.shards.items())))
        starts = {name: [ReadPosition()] for name in files}
        reusable = {"here": stored}
        return plan(corpus, starts, stored, compare(corpus, stored), reusable, rows)

    def do(self, unit: Unit, files: dict[str, list[tuple[int, int]]]) -> None:
        drop = set(unit.drop.tolist())
        held = [d for d in self.shards.get(unit.shard, []) if d[0] * 100 + d[1] not in drop]
        for selection in unit.selections:
            for row, content in zip(selection.rows, selection.contents.tolist(), strict=True):
                document = files[selection.file][row]
                assert document[0] * 100 + document[1] == content
                if document not in held:
                    held.append(document)
        self.shards[unit.shard] = held
        if not held:
            del self.shards[unit.shard]


@given(history=st.lists(FILES, min_size=1, max_size=4), rows=st.integers(1, 6), seed=st.integers())
def test_any_history_ends_with_the_last_corpus_and_no_document_ever_moves(
    history: list[list[list[tuple[int, int]]]], rows: int, seed: int
) -> None:
    folder, draw = Folder(), random.Random(seed)
    for groups in history:
        files = {f"{name}.jsonl": documents for name, documents in zip("abc", groups, strict=False)}
        wanted = {key: content for documents in files.values() for key, content in documents}
        before = {key: shard for shard, held in folder.shards.items() for key, _ in held}
        units = folder.plan(files, rows)
        draw.shuffle(units)
        for unit in units[: draw.randint(0, len(units))]:  # then it is killed
            folder.do(unit, files)
            held = Counter(key for shard in folder.shards.values() for key, _ in shard)
            assert all(count == 1 for count in held.values())
            assert held.keys() >= before.keys() & wanted.keys()
        for unit in folder.plan(files, rows):
            folder.do(unit, files)
            folder.do(unit, files)
        assert dict(d for held in folder.shards.values() for d in held) == wanted
        assert sum(map(len, folder.shards.values())) == len(wanted)
        after = {key: shard for shard, held in folder.shards.items() for key, _ in held}
        assert all(after[key] == shard for key, shard in before.items() if key in after)
        assert folder.plan(files, rows) == []


@pytest.mark.parametrize(("rows_per_shard", "rows"), [(8, [[0, 2]]), (4, [[2], [0]])])
def test_a_changed_document_stays_and_a_new_one_fills_a_shard_that_is_half_empty(
    rows_per_shard: int, rows: list[list[int]]
) -> None:
    folder = Folder()
    folder.shards = {"part-000000.parquet": [(9, 1), (6, 0), (8, 0)]}
    units = folder.plan({"a.jsonl": [(7, 0), (8, 0), (9, 0)]}, rows_per_shard)
    assert [unit.selections[0].rows for unit in units] == rows
    assert sorted(units[0].drop.tolist()) == [600, 901]


def test_new_shards_are_full_and_in_the_corpus_s_order() -> None:
    files = {"a.jsonl": [(i, 0) for i in range(5)], "b.jsonl": [(i, 0) for i in range(5, 12)]}
    units = Folder().plan(files, 4)
    assert [unit.shard for unit in units] == [f"part-{i:06d}.parquet" for i in range(3)]
    assert [unit.num_documents for unit in units] == [4, 4, 4]
    assert [(selection.file, selection.rows) for selection in units[1].selections] == [
        ("a.jsonl", [4]),
        ("b.jsonl", [0, 1, 2]),
    ]


def test_many_small_additions_fill_shards_instead_of_making_many() -> None:
    folder = Folder()
    files: dict[str, list[tuple[int, int]]] = {}
    for i in range(100):
        files[f"{i:03d}.jsonl"] = [(i, 0)]
        for unit in folder.plan(files, 10):
            folder.do(unit, files)
    assert len(folder.shards) <= 21
    assert sum(map(len, folder.shards.values())) == 100


@pytest.mark.parametrize(("size", "documents"), [(1, 10), (5, 2), (10, 1), (99, 1)])
def test_a_shard_holds_as_many_documents_as_their_vectors_fit(size: int, documents: int) -> None:
    corpus = inventory_of({"a.jsonl": [(i, 0) for i in range(20)]}, size)
    none = inventory_of({})
    units = plan(corpus, {"a.jsonl": [ReadPosition()]}, none, compare(corpus, none), {}, 10)
    assert {unit.num_documents for unit in units} == {documents}


def test_a_vector_is_taken_from_the_first_folder_that_has_its_text() -> None:
    corpus = inventory_of({"a.jsonl": [(1, 7), (2, 8), (3, 9)]})
    one, other = inventory_of({"x": [(50, 7)]}), inventory_of({"y": [(60, 7), (61, 8)]})
    none = inventory_of({})
    reusable = {"one": one, "other": other}
    (unit,) = plan(corpus, {"a.jsonl": [ReadPosition()]}, none, compare(corpus, none), reusable, 10)
    assert [(s.folder, s.shard, s.texts.tolist()) for s in unit.sources] == [
        ("one", "x", [7]),
        ("other", "y", [8]),
    ]


def test_reading_begins_at_the_last_read_position_before_the_first_row() -> None:
    corpus = inventory_of({"a.jsonl": [(i, 0) for i in range(30)]})
    stored = inventory_of({"part-000000.parquet": [(i, 0) for i in range(17)]})
    positions = {"a.jsonl": [ReadPosition(0, 0), ReadPosition(10, 100), ReadPosition(20, 200)]}
    (unit,) = plan(corpus, positions, stored, compare(corpus, stored), {}, 20)
    (selection,) = unit.selections
    assert selection.start == ReadPosition(10, 100)
    assert selection.rows == list(range(17, 30))
    assert np.array_equal(selection.contents, corpus.contents[17:])
