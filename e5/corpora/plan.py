"""What each shard shall hold: units of work, from what a corpus and a folder of shards have.

A document that is in a shard stays in it. New ones fill shards that are less than half full, then
new shards, in the corpus's order. Units may be done in any order, and repeatedly. Knows nothing of
how rows are read or vectors computed.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from e5.corpora.formats import ReadPosition
from e5.corpora.inventory import Difference, Hashes, Inventory, Positions, find
from e5.corpora.shard import shard_name, shard_number

ROWS_PER_SHARD = 4096  # with 4096 float16 dimensions a shard has 29 MB


@dataclass(frozen=True)
class RowSelection:
    """Rows of one file.

    Attributes:
        file: its path below the corpus's location.
        mark: where reading begins.
        rows: their numbers, ascending.
        contents: hashes of what they held when they were planned, uint64 `[num_rows]`.
    """

    file: str
    mark: ReadPosition
    rows: list[int]
    contents: Hashes


@dataclass(frozen=True)
class Source:
    """Texts whose vectors are in a shard already.

    Attributes:
        folder: of the shard.
        shard: its name.
        texts: hashes of the texts.
    """

    folder: str
    shard: str
    texts: Hashes


@dataclass(frozen=True)
class Unit:
    """Documents that one shard shall have, and those that it shall no longer have.

    Attributes:
        shard: its name, whether or not it exists.
        picks: of documents that it lacks.
        drop: content hashes of documents to leave out.
        sources: of vectors.
    """

    shard: str
    picks: list[RowSelection] = field(default_factory=list)
    drop: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    sources: list[Source] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For files about it."""
        return self.shard.removesuffix(".parquet")

    @property
    def num_documents(self) -> int:
        """That are picked."""
        return sum(len(pick.rows) for pick in self.picks)


@dataclass(frozen=True)
class ReusableVectors:
    """A folder that vectors may be taken from, and what is in it."""

    location: str
    inventory: Inventory


class VectorSources:
    """Where vectors of documents may be taken from."""

    def __init__(
        self, corpus: Inventory, wanted: Positions, stocks: Sequence[ReusableVectors]
    ) -> None:
        """Look up the texts of all wanted places in the corpus, which ascend."""
        self._wanted, self._stocks = wanted, stocks
        self._stock = np.full(len(wanted), -1, np.int8)
        self._place = np.full(len(wanted), -1, np.int64)
        for number, stock in enumerate(stocks):
            missing = np.flatnonzero(self._stock < 0)
            places = find(corpus.texts[wanted[missing]], stock.inventory)
            found = places >= 0
            self._stock[missing[found]] = number
            self._place[missing[found]] = places[found]

    def of(self, places: Positions) -> Iterator[Source]:
        """Of some of the wanted places."""
        at = np.searchsorted(self._wanted, places)
        for number, stock in enumerate(self._stocks):
            found = np.unique(self._place[at[self._stock[at] == number]])
            for shard, some in stock.inventory.by_group(found):
                yield Source(stock.location, shard, stock.inventory.texts[some])


def plan(
    corpus: Inventory,
    marks: Mapping[str, Sequence[ReadPosition]],
    folder: Inventory,
    difference: Difference,
    stocks: Sequence[ReusableVectors],
    rows_per_shard: int,
) -> list[Unit]:
    """The units that make a folder hold what a corpus holds.

    Args:
        corpus: its documents.
        marks: of each file, where reading can begin.
        folder: its documents.
        difference: of the two.
        stocks: where vectors may be taken from; the first one that has a text gives it.
        rows_per_shard: the most vectors of a new shard.
    """
    wanted: dict[str, list[Positions]] = {}
    drop: dict[str, list[Positions]] = {}
    by_home = np.argsort(difference.homes, kind="stable")
    homes, changed = difference.homes[by_home], difference.changed[by_home]
    at = 0
    for shard, places in folder.by_group(homes):
        wanted.setdefault(shard, []).append(changed[at : at + len(places)])
        drop.setdefault(shard, []).append(places)
        at += len(places)
    for shard, places in folder.by_group(difference.removed):
        drop.setdefault(shard, []).append(places)
    for shard, places in _homes_of_new(corpus, folder, difference, rows_per_shard):
        wanted.setdefault(shard, []).append(places)
    origins = VectorSources(corpus, np.sort(np.concatenate([changed, difference.added])), stocks)
    units = []
    for shard in sorted(wanted.keys() | drop.keys()):
        new = np.sort(np.concatenate([np.empty(0, np.int64), *wanted.get(shard, [])]))
        old = np.concatenate([np.empty(0, np.int64), *drop.get(shard, [])])
        units.append(
            Unit(
                shard,
                list(_picks(corpus, marks, new)),
                folder.contents[old],
                list(origins.of(new)),
            )
        )
    return units


def _homes_of_new(
    corpus: Inventory, folder: Inventory, difference: Difference, rows_per_shard: int
) -> Iterator[tuple[str, Positions]]:
    """Shards, and the new documents that each of them gets."""
    sizes = np.append(np.zeros(1, np.int64), folder.sizes.astype(np.int64)).cumsum()
    held = np.diff(sizes[folder.starts])
    removed = folder.group_of(difference.removed)
    np.subtract.at(held, removed, folder.sizes[difference.removed].astype(np.int64))
    rooms = [
        (name, rows_per_shard - int(rows))
        for name, rows in zip(folder.groups, held, strict=True)
        if 0 < rows < rows_per_shard // 2
    ]
    taken = {shard_number(name) for name in folder.groups}
    added = difference.added
    ends = corpus.sizes[added].astype(np.int64).cumsum()  # vectors, up to and with each document
    begin, number, before = 0, 0, 0
    while begin < len(added):
        if rooms:
            shard, room = rooms.pop(0)
        else:
            while number in taken:
                number += 1
            shard, room = shard_name(number), rows_per_shard
            number += 1
        end = int(np.searchsorted(ends, before + room, side="right"))
        if end == begin and room < rows_per_shard:
            continue  # the next document is too large for it
        end = max(end, begin + 1)
        yield shard, added[begin:end]
        begin, before = end, int(ends[end - 1])


def _picks(
    corpus: Inventory, marks: Mapping[str, Sequence[ReadPosition]], places: Positions
) -> Iterable[RowSelection]:
    for file, some in corpus.by_group(places):
        rows = corpus.rows[some].tolist()
        known = marks[file]
        mark = known[bisect_right(known, rows[0], key=lambda mark: mark.row) - 1]
        yield RowSelection(file, mark, rows, corpus.contents[some])
