"""Reads a whole corpus once: what documents it has, as hashes, and which rows are none.

Knows nothing of what is stored already.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from tqdm import tqdm

from e5.corpora.column_types import NULL, common_type, kept_type, type_of_value
from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import DeadLetter, Document
from e5.corpora.formats import ReadPosition
from e5.corpora.inventory import Inventory, InventoryBuilder, Positions, digest
from e5.corpora.passages import PassageSize
from e5.errors import InputError

MARK_ROWS = 1024  # between two marks


@dataclass(frozen=True)
class Scan:
    """What a corpus has.

    Attributes:
        inventory: its documents.
        marks: of each file, where reading can begin.
        kinds: the type of each kept column; null for one without values.
        letters: names under which the rows that are no documents were told.
    """

    inventory: Inventory
    marks: dict[str, list[ReadPosition]]
    kinds: dict[str, pa.DataType]
    letters: list[str]


def scan(
    corpus: Corpus,
    files: Iterable[str],
    cut: PassageSize | None,
    tell: Callable[[str, Sequence[DeadLetter]], None],
) -> Scan:
    """Read every row of these files.

    Args:
        corpus: that they belong to.
        files: in order.
        cut: how documents are cut, to estimate how many vectors they need.
        tell: takes the rows of a file that are no documents, under a name for them.

    Raises:
        InputError: for a file that cannot be read, or a column that cannot be kept.
    """
    stock, marks, told = InventoryBuilder(), dict[str, list[ReadPosition]](), list[str]()
    kinds = dict.fromkeys(corpus.keep, NULL)
    with (
        Reading(corpus) as reading,
        tqdm(None, "reading rows", unit="row", unit_scale=True, delay=2, disable=None) as bar,
    ):
        for file in files:
            types = reading.open(file).types(corpus.keep)
            for column, kind in types.items():
                kinds[column] = common_type(kinds[column], _kept(kind, column, file))
            untyped = [] if types else list(enumerate(corpus.keep))
            letters: list[DeadLetter] = []
            marks[file] = []
            stock.begin(file)
            due = 0
            for mark, item in reading.rows(file):
                if mark.row >= due:
                    marks[file].append(mark)
                    due = mark.row + MARK_ROWS
                    bar.update(MARK_ROWS)
                if isinstance(item, DeadLetter):
                    letters.append(item)
                    continue
                size = 1 if cut is None else cut.estimated_passages(len(item.text))
                stock.add(item.hashes(), mark.row, size)
                for at, column in untyped:
                    kinds[column] = common_type(kinds[column], type_of_value(item.kept[at]))
            if letters:
                told.append(dead_letters_name(file))
                tell(told[-1], letters)
    return Scan(stock.inventory(), marks, kinds, told)


def documents_at(
    corpus: Corpus, found: Scan, places: Positions
) -> Iterable[tuple[int, Document, str]]:
    """Documents at ascending places of the inventory, with their `file:row`."""
    with Reading(corpus) as reading:
        for file, some in found.inventory.by_group(places):
            by_row = dict(zip(found.inventory.rows[some].tolist(), some.tolist(), strict=True))
            for mark, item in reading.selected_rows(file, found.marks[file][0], list(by_row)):
                if isinstance(item, Document):
                    yield by_row[mark.row], item, f"{file}:{mark.row}"


def dead_letters_name(file: str) -> str:
    """The name for the dead letters of a file.

    Example:
        >>> dead_letters_name("2026/a b.csv")
        'a-b-csv-5741a73d47ef3dec'
    """
    stem = re.sub(r"[^A-Za-z0-9]+", "-", file.rpartition("/")[2])[:40]
    return f"{stem}-{digest(file)}"


def _kept(kind: pa.DataType, column: str, file: str) -> pa.DataType:
    kept = kept_type(kind)
    if kept is None:
        received = f"{column!r}, which holds {kind} in {file}"
        raise InputError("keep", received, "name columns of text, numbers, booleans or dates")
    return kept
