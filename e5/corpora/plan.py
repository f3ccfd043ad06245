"""What each shard shall hold: units of work, from the documents of a corpus and of a folder.

A document that is in a shard stays in it. New ones fill shards that are less than half full, then
new shards, in the corpus's order. Units may be done in any order, and repeatedly.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from e5.corpora.formats import ReadPosition
from e5.corpora.inventory import Difference, Hashes, Inventory, Positions, find
from e5.corpora.shard import shard_name, shard_number

ROWS_PER_SHARD = 4096  # with 4096 float16 dimensions a shard has 29 MB


@dataclass(frozen=True)
class RowSelection:
    """Rows of one file."""

    file: str  # its path below the corpus's location
    start: ReadPosition  # where reading begins
    rows: list[int]  # the row numbers, ascending
    contents: Hashes  # of the rows when they were planned, `[num_rows]`


@dataclass(frozen=True)
class Source:
    """Texts whose vectors a shard holds."""

    folder: str  # location of the shard's folder
    shard: str
    texts: Hashes


@dataclass(frozen=True)
class Unit:
    """Documents that one shard shall have, and those that it shall no longer have."""

    shard: str  # its name, whether or not it exists
    selections: list[RowSelection] = field(default_factory=list)  # documents that it lacks
    drop: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))  # contents to leave out
    sources: list[Source] = field(default_factory=list)  # shards with vectors of new documents

    @property
    def name(self) -> str:
        """The shard's name without its ending, for files about the unit."""
        return self.shard.removesuffix(".parquet")

    @property
    def num_documents(self) -> int:
        """The number of documents that the shard lacks."""
        return sum(len(selection.rows) for selection in self.selections)


def plan(
    corpus: Inventory,
    read_positions: Mapping[str, Sequence[ReadPosition]],
    folder: Inventory,
    difference: Difference,
    reusable: Mapping[str, Inventory],
    rows_per_shard: int,
) -> list[Unit]:
    """The units that make a folder hold what a corpus holds.

    Args:
        corpus: the documents of the corpus.
        read_positions: where reading can begin in each file.
        folder: the documents of the folder.
        difference: how the folder must change.
        reusable: documents of folders that vectors may be taken from, by the folders' locations;
            the first folder that has a text counts.
        rows_per_shard: the most vectors of a new shard.
    """
    left_out = np.sort(np.concatenate([difference.outdated, difference.removed]))
    drop = {shard: folder.contents[part] for shard, part in folder.by_group(left_out)}
    new: dict[str, list[Positions]] = defaultdict(list)  # in the corpus, by target shard
    by_shard = np.argsort(difference.outdated)
    changed = difference.changed[by_shard]
    for shard, positions in folder.by_group(difference.outdated[by_shard]):
        new[shard].append(changed[: len(positions)])
        changed = changed[len(positions) :]
    for shard, positions in _target_shards(corpus, folder, difference, rows_per_shard):
        new[shard].append(positions)
    every = np.sort(np.concatenate([difference.changed, difference.added]))
    found_in = _find_texts(corpus, every, reusable.values())
    units = []
    for shard in sorted(new.keys() | drop.keys()):
        positions = np.sort(np.concatenate([every[:0], *new[shard]]))
        selections = list(_selections(corpus, read_positions, positions))
        indices = np.searchsorted(every, positions)
        sources = [
            Source(location, name, inventory.texts[part])
            for (location, inventory), found in zip(reusable.items(), found_in, strict=True)
            for name, part in inventory.by_group(np.setdiff1d(found[indices], [-1]))
        ]
        units.append(Unit(shard, selections, drop.get(shard, folder.contents[:0]), sources))
    return units


def _find_texts(
    corpus: Inventory, positions: Positions, inventories: Iterable[Inventory]
) -> list[NDArray[np.int32]]:
    """In each inventory the positions of the texts that no earlier one has; -1 for all others."""
    found_in, is_missing = [], np.ones(len(positions), dtype=bool)
    for inventory in inventories:
        found_in.append(np.full(len(positions), -1, np.int32))
        found_in[-1][is_missing] = find(corpus.texts, positions[is_missing], inventory.texts)
        is_missing &= found_in[-1] < 0
    return found_in


def _target_shards(
    corpus: Inventory, folder: Inventory, difference: Difference, rows_per_shard: int
) -> Iterator[tuple[str, Positions]]:
    """Names of shards, each with the positions of the new documents that it gets."""
    sizes = folder.sizes.copy()
    sizes[difference.removed] = 0
    ends = np.append(0, sizes.cumsum(dtype=np.int64))[folder.starts]
    half_empty = [
        (shard, rows_per_shard - num_rows)
        for shard, num_rows in zip(folder.groups, np.diff(ends).tolist(), strict=True)
        if 0 < num_rows < rows_per_shard // 2
    ]
    used = {shard_number(name) for name in folder.groups}
    unused = (shard_name(number) for number in count() if number not in used)
    added = difference.added
    ends = corpus.sizes[added].cumsum(dtype=np.int64)  # vectors, up to and with each document
    begin, num_before = 0, 0
    while begin < len(added):
        shard, free = half_empty.pop(0) if half_empty else (next(unused), rows_per_shard)
        end = int(np.searchsorted(ends, num_before + free, side="right"))
        if end == begin:
            if free < rows_per_shard:
                continue  # the next document is too large for this shard
            end = begin + 1
        yield shard, added[begin:end]
        begin, num_before = end, int(ends[end - 1])


def _selections(
    corpus: Inventory,
    read_positions: Mapping[str, Sequence[ReadPosition]],
    positions: Positions,
) -> Iterator[RowSelection]:
    for file, part in corpus.by_group(positions):
        rows, known = corpus.rows[part].tolist(), read_positions[file]
        start = known[bisect_right(known, rows[0], key=lambda position: position.row) - 1]
        yield RowSelection(file, start, rows, corpus.contents[part])
