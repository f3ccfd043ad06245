"""What differs between a corpus and a folder, against plain dictionaries."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.inventory import Inventory, InventoryBuilder, compare, find

# Few ids and contents, so that equal ones meet.
DOCUMENTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=12)
GROUPS = st.lists(DOCUMENTS, max_size=4)


def inventory_of(groups: list[list[tuple[int, int]]]) -> Inventory:
    builder = InventoryBuilder()
    for number, documents in enumerate(groups):
        builder.begin(f"group {number}")
        for row, (name, content) in enumerate(documents):
            builder.add((name, name * 100 + content, content), row, size=content)
    return builder.build()


@given(corpus=GROUPS, folder=GROUPS)
def test_the_difference_makes_the_folder_equal_to_the_corpus(
    corpus: list[list[tuple[int, int]]], folder: list[list[tuple[int, int]]]
) -> None:
    found = compare(inventory_of(corpus), inventory_of(folder))
    rows = [document for documents in corpus for document in documents]
    held = [document for documents in folder for document in documents]
    after = [document for i, document in enumerate(held) if i not in set(found.removed.tolist())]
    for changed, outdated in zip(found.changed.tolist(), found.outdated.tolist(), strict=True):
        after.remove(held[outdated])
        after.append(rows[changed])
        assert held[outdated][0] == rows[changed][0]
        assert held[outdated] != rows[changed]
    after += [rows[position] for position in found.added.tolist()]
    assert sorted(after) == sorted(dict(rows).items())  # the last of an id, once
    assert found.added.tolist() == sorted(found.added.tolist())
    for duplicate, latest in zip(found.duplicates.tolist(), found.latest.tolist(), strict=True):
        assert duplicate < latest
        assert rows[duplicate][0] == rows[latest][0]
        assert latest == max(i for i, row in enumerate(rows) if row[0] == rows[duplicate][0])
    assert len(found.duplicates) == len(rows) - len(dict(rows))


@given(groups=GROUPS)
def test_a_folder_that_equals_the_corpus_needs_no_change(
    groups: list[list[tuple[int, int]]],
) -> None:
    last = {name: content for documents in groups for name, content in documents}
    inventory = inventory_of([list(last.items())])
    found = compare(inventory, inventory)
    assert not any(map(len, (found.added, found.changed, found.removed, found.duplicates)))


@given(groups=GROUPS, texts=st.lists(st.integers(0, 5)), seed=st.integers(0, 9))
def test_a_text_is_found_in_every_inventory_that_has_it(
    groups: list[list[tuple[int, int]]], texts: list[int], seed: int
) -> None:
    known = inventory_of(groups).texts.tolist()
    positions = np.random.default_rng(seed).permutation(len(texts))
    found = find(np.array(texts, np.uint64), positions, np.array(known, np.uint64))
    for position, index in zip(positions.tolist(), found.tolist(), strict=True):
        text = texts[position]
        assert index == (known.index(text) if text in known else -1)


@given(groups=GROUPS)
def test_positions_come_group_by_group(groups: list[list[tuple[int, int]]]) -> None:
    inventory = inventory_of(groups)
    by_group = inventory.by_group(np.arange(len(inventory)))
    rows_by_group = {name: inventory.rows[positions].tolist() for name, positions in by_group}
    assert rows_by_group == {
        f"group {i}": list(range(len(documents))) for i, documents in enumerate(groups) if documents
    }


def test_a_document_takes_32_bytes() -> None:
    builder = InventoryBuilder()
    builder.begin("a")
    hashes = np.arange(1_000, dtype=np.uint64)
    builder.add_all(hashes, hashes, hashes, np.ones(len(hashes)))
    made = builder.build()
    arrays = (made.ids, made.contents, made.texts, made.rows, made.sizes)
    assert sum(array.nbytes for array in arrays) == 32 * len(made)
