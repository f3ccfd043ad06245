"""Reads a whole corpus once: its documents as hashes, and the rows that are not documents."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import DeadLetter, Document, PassageSize
from e5.corpora.formats import ReadPosition
from e5.corpora.inventory import Inventory, InventoryBuilder, Positions
from e5.corpora.kept_column import KeptColumn

ROWS_BETWEEN = 1024  # rows between two read positions


@dataclass(frozen=True)
class Scan:
    """What a corpus holds."""

    inventory: Inventory
    read_positions: dict[str, list[ReadPosition]]  # where reading can begin in each file
    kept: list[KeptColumn]
    dead_letters: list[str]  # names under which dead letters were written


def scan(
    corpus: Corpus,
    files: Iterable[str],
    size: PassageSize | None,
    write_dead_letters: Callable[[str, Sequence[DeadLetter]], None],
) -> Scan:
    """Read every row of a corpus's files, which are named in order.

    `size` is used to estimate how many vectors documents need; with None each needs one.
    `write_dead_letters` takes a name, and the rows of one file that are not documents.

    Raises:
        InputError: for a file that cannot be read, or a column that cannot be kept.
    """
    builder, names = InventoryBuilder(), list[str]()
    read_positions = dict[str, list[ReadPosition]]()
    kept = [KeptColumn(column, corpus.named_types.get(column)) for column in corpus.keep]
    with (
        Reading(corpus) as reading,
        tqdm(None, "reading rows", unit="row", unit_scale=True, delay=2, disable=None) as bar,
    ):
        for file in files:
            types = reading.open(file).types
            for column in kept:
                if column.name in types:
                    column.add_type(types[column.name], file)
            dead_letters: list[DeadLetter] = []
            read_positions[file] = []
            builder.begin(file)
            next_row = 0
            for start, item in reading.rows(file):
                if start.row >= next_row:
                    read_positions[file].append(start)
                    next_row = start.row + ROWS_BETWEEN
                    bar.update(ROWS_BETWEEN)
                if isinstance(item, DeadLetter):
                    dead_letters.append(item)
                    continue
                num_vectors = 1 if size is None else size.estimated_passages(len(item.text))
                builder.add(item.hashes(), start.row, num_vectors)
                for column, value in zip(kept, item.kept, strict=True):
                    column.add(value, file, start.row)
            if dead_letters:
                names.append(dead_letters_name(file))
                write_dead_letters(names[-1], dead_letters)
    return Scan(builder.build(), read_positions, kept, names)


def documents_at(
    corpus: Corpus, found: Scan, positions: Positions
) -> Iterator[tuple[int, Document, str]]:
    """The ascending positions in a scan's inventory, with their documents and `file:row`."""
    with Reading(corpus) as reading:
        for file, part in found.inventory.by_group(positions):
            by_row = dict(zip(found.inventory.rows[part].tolist(), part.tolist(), strict=True))
            first = found.read_positions[file][0]
            for start, item in reading.selected_rows(file, first, list(by_row)):
                if isinstance(item, Document):
                    yield by_row[start.row], item, f"{file}:{start.row}"


def dead_letters_name(file: str) -> str:
    """The name for the dead letters of a file: `a-b-csv-5741a73d47ef3dec` for `2026/a b.csv`."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", file.rpartition("/")[2])[:40]
    return f"{stem}-{hashlib.sha256(file.encode()).hexdigest()[:16]}"
