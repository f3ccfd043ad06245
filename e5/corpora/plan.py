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

    Returns:
        A unit for each shard that must change, ordered by the shards' names.

    If the corpus has the ids 7, 8 and 9, and the folder one shard, with 9 in another content, 6 and
    8, then a unit for this shard reads the row of 9, and drops the contents of 6 and of the old 9.
    It also reads the row of 7 if the shard is then less than half full; else 7 goes to a new shard.
    """
    dropped_in_folder = np.sort(np.concatenate([difference.outdated, difference.removed]))
    drop = {shard: folder.contents[at] for shard, at in folder.by_group(dropped_in_folder)}
    corpus_positions: dict[str, list[Positions]] = defaultdict(list)  # by target shard
    for shard, positions in (
        *_shards_of_changed(folder, difference),
        *_shards_of_added(corpus, folder, difference, rows_per_shard),
    ):
        corpus_positions[shard].append(positions)
    lacking = np.sort(np.concatenate([difference.changed, difference.added]))  # in the corpus
    found_in = _find_texts(corpus, lacking, reusable.values())
    units = []
    for shard in sorted(corpus_positions.keys() | drop.keys()):
        positions = np.sort(np.concatenate([lacking[:0], *corpus_positions[shard]]))
        selections = list(_selections(corpus, read_positions, positions))
        indices = np.searchsorted(lacking, positions)
        sources = [
            Source(location, name, inventory.texts[inventory_positions])
            for (location, inventory), found in zip(reusable.items(), found_in, strict=True)
            for name, inventory_positions in inventory.by_group(np.setdiff1d(found[indices], [-1]))
        ]
        units.append(Unit(shard, selections, drop.get(shard, folder.contents[:0]), sources))
    return units


def _find_texts(
    corpus: Inventory, positions: Positions, inventories: Iterable[Inventory]
) -> list[NDArray[np.int32]]:
    """Where each inventory has the texts of documents of the corpus.

    Returns:
        For each inventory its position of each text, `[len(positions)]`; -1 for a text that it
        lacks or that an earlier inventory has.
    """
    found_in, is_missing = [], np.ones(len(positions), dtype=bool)
    for inventory in inventories:
        found_in.append(np.full(len(positions), -1, np.int32))
        found_in[-1][is_missing] = find(corpus.texts, positions[is_missing], inventory.texts)
        is_missing &= found_in[-1] < 0
    return found_in


def _shards_of_changed(
    folder: Inventory, difference: Difference
) -> Iterator[tuple[str, Positions]]:
    """Names of shards, each with the corpus's positions of the documents that changed in it."""
    order = np.argsort(difference.outdated)
    changed, begin = difference.changed[order], 0
    for shard, folder_positions in folder.by_group(difference.outdated[order]):
        end = begin + len(folder_positions)
        yield shard, changed[begin:end]
        begin = end


def _shards_of_added(
    corpus: Inventory, folder: Inventory, difference: Difference, rows_per_shard: int
) -> Iterator[tuple[str, Positions]]:
    """Names of shards, each with the corpus's positions of the new documents that it gets."""
    sizes = folder.sizes.copy()
    sizes[difference.removed] = 0
    rows_before = np.append(0, sizes.cumsum(dtype=np.int64))[folder.starts]  # of each shard
    half_empty = [
        (shard, rows_per_shard - num_rows)
        for shard, num_rows in zip(folder.groups, np.diff(rows_before).tolist(), strict=True)
        if 0 < num_rows < rows_per_shard // 2
    ]
    used = {shard_number(name) for name in folder.groups}
    unused = (shard_name(number) for number in count() if number not in used)
    added = difference.added
    num_vectors = corpus.sizes[added].cumsum(dtype=np.int64)  # up to and with each new document
    begin, num_before = 0, 0
    while begin < len(added):
        shard, free = half_empty.pop(0) if half_empty else (next(unused), rows_per_shard)
        end = int(np.searchsorted(num_vectors, num_before + free, side="right"))
        if end == begin:
            if free < rows_per_shard:
                continue  # the next document is too large for this shard
            end = begin + 1
        yield shard, added[begin:end]
        begin, num_before = end, int(num_vectors[end - 1])


def _selections(
    corpus: Inventory,
    read_positions: Mapping[str, Sequence[ReadPosition]],
    positions: Positions,
) -> Iterator[RowSelection]:
    """The rows of documents at ascending positions in the corpus, file by file."""
    for file, in_file in corpus.by_group(positions):
        rows, starts = corpus.rows[in_file].tolist(), read_positions[file]
        start = starts[bisect_right(starts, rows[0], key=lambda start: start.row) - 1]
        yield RowSelection(file, start, rows, corpus.contents[in_file])
