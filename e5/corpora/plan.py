"""What each shard shall hold: units of work, from the documents of a corpus and of a folder.

A document that is in a shard stays in it. New ones fill shards that are less than half full, then
new shards, in the corpus's order. Units may be done in any order, and repeatedly.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

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


class VectorSources:
    """The shards from which vectors of new documents can be taken."""

    def __init__(
        self, corpus: Inventory, positions: Positions, reusable: Mapping[str, Inventory]
    ) -> None:
        """Look up the texts at ascending positions in `reusable`, as `plan` has it."""
        self._positions, self._reusable = positions, reusable
        self._folders = np.full(len(positions), -1, np.int8)
        self._found = np.full(len(positions), -1, np.int64)  # position in that folder
        for number, inventory in enumerate(reusable.values()):
            missing = np.flatnonzero(self._folders < 0)
            found = find(corpus.texts, positions[missing], inventory.texts)
            self._folders[missing[found >= 0]] = number
            self._found[missing] = found

    def sources_for(self, positions: Positions) -> Iterator[Source]:
        """The sources for the texts at some of these positions."""
        indices = np.searchsorted(self._positions, positions)
        for number, (location, inventory) in enumerate(self._reusable.items()):
            found = np.unique(self._found[indices[self._folders[indices] == number]])
            for shard, part in inventory.by_group(found):
                yield Source(location, shard, inventory.texts[part])


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
    vectors = VectorSources(corpus, every, reusable)
    units = []
    for shard in sorted(new.keys() | drop.keys()):
        positions = np.sort(np.concatenate([every[:0], *new[shard]]))
        selections = list(_selections(corpus, read_positions, positions))
        sources = list(vectors.sources_for(positions))
        units.append(Unit(shard, selections, drop.get(shard, folder.contents[:0]), sources))
    return units


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
