"""What documents there are, as hashes; what a folder of shards lacks and has too much.

Hashes have 64 bits: of 300,000 corpora of 10 million documents one has two ids that share one by
chance. A document takes 32 bytes here. Knows nothing of how documents are read or stored.
"""

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**20  # documents that are compared at a time, to need little memory

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Inventory:
    """Documents in the order in which they lie in files or shards.

    Attributes:
        groups: names of the files or shards.
        starts: `[num_groups + 1]`, the first document of each, and the number of all.
        ids: hash of each document's id, uint64 `[num_documents]`.
        contents: hash of all that it is.
        texts: hash of its text.
        rows: its row in its file, or its number in its shard; uint32.
        sizes: how many vectors it has or may have; uint32.
    """

    groups: tuple[str, ...]
    starts: Positions
    ids: Hashes
    contents: Hashes
    texts: Hashes
    rows: NDArray[np.uint32]
    sizes: NDArray[np.uint32]

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.ids)

    def group_of(self, places: Positions) -> Positions:
        """The number of the group that each document is in."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def by_group(self, places: Positions) -> Iterable[tuple[str, Positions]]:
        """Ascending places, group by group."""
        if len(places):
            groups = self.group_of(places)
            cuts = np.flatnonzero(np.diff(groups)) + 1
            for part in np.split(places, cuts):
                yield self.groups[int(self.group_of(part[:1])[0])], part


class InventoryBuilder:
    """Fills an inventory, document by document."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._groups: list[str] = []
        self._starts = array("q")
        self._hashes = array("Q"), array("Q"), array("Q")
        self._numbers = array("I"), array("I")

    def begin(self, group: str) -> None:
        """All that is added from now on is in this file or shard."""
        self._groups.append(group)
        self._starts.append(len(self._numbers[0]))

    def add(self, hashes: tuple[int, int, int], row: int, size: int = 1) -> None:
        """One document: the hashes of its id, all of it, and its text."""
        for column, value in zip(self._hashes, hashes, strict=True):
            column.append(value)
        self._numbers[0].append(row)
        self._numbers[1].append(size)

    def add_all(self, ids: Hashes, contents: Hashes, texts: Hashes, sizes: Any) -> None:
        """Documents numbered from 0."""
        for column, values in zip(self._hashes, (ids, contents, texts), strict=True):
            column.frombytes(values.astype(np.uint64).tobytes())
        self._numbers[0].frombytes(np.arange(len(ids), dtype=np.uint32).tobytes())
        self._numbers[1].frombytes(np.asarray(sizes, np.uint32).tobytes())

    def inventory(self) -> Inventory:
        """All that was added. Nothing may be added afterwards."""
        ids, contents, texts = (np.frombuffer(column, np.uint64) for column in self._hashes)
        rows, sizes = (np.frombuffer(column, np.uint32) for column in self._numbers)
        starts = np.append(np.frombuffer(self._starts, np.int64), len(ids)).astype(np.int64)
        return Inventory(tuple(self._groups), starts, ids, contents, texts, rows, sizes)


@dataclass(frozen=True)
class Difference:
    """How the documents of a folder must change to be those of a corpus.

    Attributes:
        added: places in the corpus of documents that the folder lacks, ascending.
        changed: places in the corpus of documents that the folder has with other content.
        homes: where in the folder these are, `[len(changed)]`.
        removed: places in the folder of documents that the corpus no longer has, ascending.
        duplicates: places in the corpus of documents whose id comes again later.
        winners: where it comes last, `[len(duplicates)]`.
    """

    added: Positions
    changed: Positions
    homes: Positions
    removed: Positions
    duplicates: Positions
    winners: Positions


def digest(name: str) -> str:
    """Sixteen hex digits of a name's sha256."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def compare(corpus: Inventory, folder: Inventory) -> Difference:
    """How a folder must change. The last of several documents with one id counts.

    Example:
        >>> def of(*documents: tuple[int, int]) -> Inventory:
        ...     made = InventoryBuilder()
        ...     made.begin("one group")
        ...     for row, (name, content) in enumerate(documents):
        ...         made.add((name, content, content), row)
        ...     return made.inventory()
        >>> found = compare(of((7, 1), (8, 1), (9, 2)), of((9, 1), (6, 1), (8, 1)))
        >>> [places.tolist() for places in (found.added, found.changed, found.removed)]
        [[0], [2], [1]]
    """
    last, lost, lost_to = _last_of_each(corpus.ids)
    order = _order(folder.ids)
    homes = np.full(len(last), -1, np.int32)
    if len(order):
        for begin in range(0, len(last), BLOCK):
            names = corpus.ids[last[begin : begin + BLOCK]]
            at = np.searchsorted(folder.ids, names, sorter=order)
            places = order[np.minimum(at, len(order) - 1)]  # the first of equal ids
            homes[begin : begin + BLOCK] = np.where(folder.ids[places] == names, places, -1)
    is_there = homes >= 0
    kept, homes = last[is_there], homes[is_there]
    differs = corpus.contents[kept] != folder.contents[homes]
    is_left = np.ones(len(folder), dtype=bool)
    is_left[homes] = False
    return Difference(
        added=np.sort(last[~is_there]).astype(np.int64),
        changed=kept[differs].astype(np.int64),
        homes=homes[differs].astype(np.int64),
        removed=np.flatnonzero(is_left),
        duplicates=lost,
        winners=lost_to,
    )


def _order(values: Hashes) -> NDArray[np.int32]:
    """Positions in ascending order of values, equal ones in their own order; half of numpy's size."""
    return np.argsort(values, kind="stable").astype(np.int32)


def _last_of_each(ids: Hashes) -> tuple[NDArray[np.int32], Positions, Positions]:
    """The last place of each id, in the ids' order; the other places, and the last one of each."""
    order = _order(ids)
    is_last = np.ones(len(order), dtype=bool)
    for begin in range(0, len(order) - 1, BLOCK):
        names = ids[order[begin : begin + BLOCK + 1]]
        is_last[begin : begin + len(names) - 1] = names[1:] != names[:-1]
    if is_last.all():
        return order, np.empty(0, np.int64), np.empty(0, np.int64)
    last, lost = order[is_last], np.flatnonzero(~is_last)
    winners = last[np.searchsorted(np.flatnonzero(is_last), lost)]
    by_place = np.argsort(order[lost])
    return last, order[lost][by_place].astype(np.int64), winners[by_place].astype(np.int64)


def find(texts: Hashes, inventory: Inventory) -> Positions:
    """A place of each text in an inventory; -1 for one that is not there."""
    found = np.full(len(texts), -1, np.int64)
    if not len(inventory):
        return found
    order = _order(inventory.texts)
    for begin in range(0, len(texts), BLOCK):
        some = texts[begin : begin + BLOCK]
        at = np.searchsorted(inventory.texts, some, sorter=order)
        places = order[np.minimum(at, len(order) - 1)]
        found[begin : begin + BLOCK] = np.where(inventory.texts[places] == some, places, -1)
    return found
