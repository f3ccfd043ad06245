"""What differs between a corpus and a folder, against plain dictionaries."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.inventory import Inventory, InventoryBuilder, compare, digest, find

# Few ids and contents, so that they meet.
DOCUMENTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=12)
GROUPS = st.lists(DOCUMENTS, max_size=4)


def stock_of(groups: list[list[tuple[int, int]]]) -> Inventory:
    stock = InventoryBuilder()
    for number, documents in enumerate(groups):
        stock.begin(f"group {number}")
        for row, (name, content) in enumerate(documents):
            stock.add((name, name * 100 + content, content), row, size=content)
    return stock.inventory()


@given(corpus=GROUPS, folder=GROUPS)
def test_the_difference_makes_one_the_other(
    corpus: list[list[tuple[int, int]]], folder: list[list[tuple[int, int]]]
) -> None:
    wanted, there = stock_of(corpus), stock_of(folder)
    found = compare(wanted, there)
    rows = [document for documents in corpus for document in documents]
    held = [document for documents in folder for document in documents]
    after = [document for i, document in enumerate(held) if i not in set(found.removed.tolist())]
    for place, home in zip(found.changed.tolist(), found.homes.tolist(), strict=True):
        after.remove(held[home])
        after.append(rows[place])
        assert held[home][0] == rows[place][0]
        assert held[home] != rows[place]
    after += [rows[place] for place in found.added.tolist()]
    assert sorted(after) == sorted(dict(rows).items())  # the last of an id, once
    assert found.added.tolist() == sorted(found.added.tolist())
    for lost, won in zip(found.duplicates.tolist(), found.winners.tolist(), strict=True):
        assert lost < won
        assert rows[lost][0] == rows[won][0]
        assert won == max(i for i, row in enumerate(rows) if row[0] == rows[lost][0])
    assert len(found.duplicates) == len(rows) - len(dict(rows))


@given(groups=GROUPS)
def test_a_folder_that_is_the_corpus_needs_nothing(groups: list[list[tuple[int, int]]]) -> None:
    names = {name: content for documents in groups for name, content in documents}
    stock = stock_of([list(names.items())])
    found = compare(stock, stock)
    assert not any(map(len, (found.added, found.changed, found.removed, found.duplicates)))


@given(groups=GROUPS, texts=st.lists(st.integers(0, 5)))
def test_a_text_is_found_wherever_it_is(
    groups: list[list[tuple[int, int]]], texts: list[int]
) -> None:
    stock = stock_of(groups)
    places = find(np.array(texts, np.uint64), stock)
    for text, place in zip(texts, places.tolist(), strict=True):
        assert (place >= 0) == (text in stock.texts.tolist())
        assert place < 0 or stock.texts[place] == text


@given(groups=GROUPS)
def test_places_are_told_by_their_groups(groups: list[list[tuple[int, int]]]) -> None:
    stock = stock_of(groups)
    told = {
        name: stock.rows[places].tolist() for name, places in stock.by_group(np.arange(len(stock)))
    }
    assert told == {
        f"group {i}": list(range(len(documents))) for i, documents in enumerate(groups) if documents
    }


def test_many_documents_need_little_memory() -> None:
    stock = InventoryBuilder()
    stock.begin("a")
    many = np.arange(100_000, dtype=np.uint64)
    stock.add_all(many, many, many, np.ones(len(many)))
    made = stock.inventory()
    arrays = (made.ids, made.contents, made.texts, made.rows, made.sizes)
    assert sum(array.nbytes for array in arrays) == 32 * len(made)


def test_a_digest_is_that_of_the_name() -> None:
    assert digest("2026/a b.csv") == "5741a73d47ef3dec"
