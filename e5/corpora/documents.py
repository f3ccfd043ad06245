"""What the rows of a corpus are: documents, which may be split into passages, or dead letters."""

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """One row's id, text and values of kept columns.

    Attributes:
        id: unique in a corpus.
        text: what is embedded.
        kept: a value for each kept column; None where the row has none.
    """

    id: str
    text: str
    kept: tuple[Any, ...] = ()

    def hashes(self) -> tuple[int, int, int]:
        """Hashes of 64 bits: of the id, of all that the document has, and of the text."""
        text = _hash(self.text)
        return _hash(self.id), _hash(repr((self.id, text, self.kept))), text


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: `document.text[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that got no vector, and why."""

    id: str
    reason: str


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
