"""Lists of documents as hashes, and what a folder of shards lacks or has too many of.

A position is a document's index in an inventory. Hashes have 64 bits: among 10 million documents
two ids share one with a chance of 1 in 300,000. A document takes 32 bytes here.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**20  # documents that are compared at a time, to need little memory

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Inventory:
    """Documents in the order in which they lie in files or shards."""

    groups: tuple[str, ...]  # names of the files or shards
    starts: Positions  # `[num_groups + 1]`: each group's first position, then the number of all
    # Of each document, `[num_documents]`:
    ids: Hashes  # hash of its id
    contents: Hashes  # hash of its id, text and kept values together
    texts: Hashes  # hash of its text
    rows: NDArray[np.uint32]  # its row in its file, or its number in its shard
    sizes: NDArray[np.uint32]  # how many vectors it has or may have

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.ids)

    def by_group(self, positions: Positions) -> Iterator[tuple[str, Positions]]:
        """The names of groups, each with those of the ascending positions that are in it."""
        if len(positions):
            numbers = np.searchsorted(self.starts, positions, side="right") - 1
            bounds = np.flatnonzero(np.diff(numbers)) + 1
            firsts = numbers[[0, *bounds]].tolist()
            for number, part in zip(firsts, np.split(positions, bounds), strict=True):
                yield self.groups[number], part


class InventoryBuilder:
    """Fills an inventory, document by document."""

    def __init__(self) -> None:
        self._groups, self._starts = list[str](), list[int]()
        # The columns from `ids` to `sizes`.
        self._columns = array("Q"), array("Q"), array("Q"), array("I"), array("I")

    def begin(self, group: str) -> None:
        """Begin a file or shard, which all documents that are added from now on are in."""
        self._groups.append(group)
        self._starts.append(len(self._columns[0]))

    def add(self, hashes: tuple[int, int, int], row: int, size: int = 1) -> None:
        """Add a document by its hashes."""
        for column, value in zip(self._columns, (*hashes, row, size), strict=True):
            column.append(value)

    def add_all(self, ids: Hashes, contents: Hashes, texts: Hashes, sizes: Any) -> None:
        """Add documents whose rows are numbered from 0."""
        rows = np.arange(len(ids))
        for column, values in zip(self._columns, (ids, contents, texts, rows, sizes), strict=True):
            column.frombytes(np.asarray(values, column.typecode).tobytes())

    def build(self) -> Inventory:
        """The inventory of all documents; none may be added afterwards."""
        starts = np.array([*self._starts, len(self._columns[0])], np.int64)
        columns = (np.frombuffer(column, column.typecode) for column in self._columns)
        return Inventory(tuple(self._groups), starts, *columns)


@dataclass(frozen=True)
class Difference:
    """How the documents of a folder must change to be those of a corpus."""

    added: Positions  # in the corpus, ascending: the folder lacks these documents
    changed: Positions  # in the corpus: the folder has these documents with other content
    outdated: Positions  # the position in the folder of each that is changed, `[len(changed)]`
    removed: Positions  # in the folder, ascending: the corpus no longer has these documents
    duplicates: Positions  # in the corpus, ascending: the ids of these documents come again later
    latest: Positions  # in the corpus: where each of these ids comes last, `[len(duplicates)]`


def compare(corpus: Inventory, folder: Inventory) -> Difference:
    """How a folder must change. The last of several documents with one id counts.

    If the corpus has the ids 7, 8 and 9, and the folder 9 with other content, 6 and 8, then 7 is
    added, 9 is changed in the corpus and outdated in the folder, and 6 is removed.
    """
    last, duplicates, latest = _last_of_each(corpus.ids)
    stored = find(corpus.ids, last, folder.ids)
    is_stored = stored >= 0
    kept, stored = last[is_stored], stored[is_stored]
    differs = corpus.contents[kept] != folder.contents[stored]
    is_removed = np.ones(len(folder), dtype=bool)
    is_removed[stored] = False
    added, changed, outdated = np.sort(last[~is_stored]), kept[differs], stored[differs]
    removed = np.flatnonzero(is_removed)
    parts = (added, changed, outdated, removed, duplicates, latest)
    return Difference(*(positions.astype(np.int64) for positions in parts))


def find(values: Hashes, positions: NDArray[Any], known: Hashes) -> NDArray[np.int32]:
    """The first index in `known` of each value at these positions, `[len(positions)]`; or -1."""
    found = np.full(len(positions), -1, np.int32)
    if not len(known):
        return found
    order = _order(known)
    for begin in range(0, len(positions), BLOCK):
        sought = values[positions[begin : begin + BLOCK]]
        indices = np.searchsorted(known, sought, sorter=order)
        candidates = order[np.minimum(indices, len(order) - 1)]  # the first of equal ones
        found[begin : begin + BLOCK] = np.where(known[candidates] == sought, candidates, -1)
    return found


def _order(values: Hashes) -> NDArray[np.int32]:
    """Indices that sort values, equal ones in their own order; half of numpy's size."""
    return np.argsort(values, kind="stable").astype(np.int32)


def _last_of_each(ids: Hashes) -> tuple[NDArray[np.int32], ...]:
    """The last position of each id, in the ids' order; then `duplicates` and `latest`.

    Example:
        >>> [positions.tolist() for positions in _last_of_each(np.array([9, 7, 9], np.uint64))]
        [[1, 2], [0], [2]]
    """
    order = _order(ids)
    is_last = np.ones(len(order), dtype=bool)
    for begin in range(0, len(order) - 1, BLOCK):
        block = ids[order[begin : begin + BLOCK + 1]]
        is_last[begin : begin + len(block) - 1] = block[1:] != block[:-1]
    last, others = order[is_last], np.flatnonzero(~is_last)
    latest = last[np.searchsorted(np.flatnonzero(is_last), others)]
    ascending = np.argsort(order[others])
    return last, order[others][ascending], latest[ascending]
