"""What the rows of a corpus are: documents, which may be split into passages, or dead letters."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from e5.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a corpus."""

    id: str  # unique in the corpus
    text: str  # what is embedded
    # A value for each kept column: None where the row has none, an `Unkept` where null is kept.
    kept: tuple[Any, ...] = ()

    def hashes(self) -> tuple[int, int, int]:
        """Hashes of 64 bits: of the id, of all that the document has, and of the text."""
        text = _hash(self.text)
        return _hash(self.id), _hash(repr((self.id, text, self.kept))), text


@dataclass(frozen=True, slots=True)
class Unkept:
    """A value of a file that cannot be kept, such as a date in the year 12000.

    Null is kept in its place, and hashed.
    """

    reason: str  # what it is: "a date outside the years 1 to 9999"

    def __repr__(self) -> str:
        return repr(None)


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


@dataclass(frozen=True)
class PassageSize:
    """How long passages are.

    Attributes:
        tokens: the most tokens of a passage, without the two special tokens and any prompt.
        overlap: the most tokens that a passage shares with the one before it.
    """

    tokens: int
    overlap: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that make no passages."""
        if self.tokens < 8:
            raise InputError("passages", str(self.tokens), "use 8 tokens or more")
        if not 0 <= self.overlap < self.tokens:
            raise InputError("overlap", str(self.overlap), f"use 0 to {self.tokens - 1}")

    def estimated_passages(self, characters: int) -> int:
        """About how many passages a text of so many characters makes."""
        return 1 + characters // (2 * (self.tokens - self.overlap))

    def split(self, text: str, count: Callable[[str], int]) -> list[Passage]:
        """The passages of a text, which end at sentences where that is possible, else at words.

        Args:
            text: not blank. No passage has white space at its ends.
            count: gives the number of tokens of a passage.

        Example:
            >>> text = "Snow is frozen water. It falls in winter, and it melts."
            >>> found = PassageSize(8).split(text, count=lambda part: len(part.split()))
            >>> [(passage.text, passage.start, passage.end) for passage in found]
            [('Snow is frozen water.', 0, 21), ('It falls in winter, and it melts.', 22, 55)]
        """
        from semantic_text_splitter import TextSplitter  # only where something is split

        splitter = TextSplitter.from_callback(count, self.tokens, overlap=self.overlap)
        parts = splitter.chunk_indices(text)
        return [Passage(part, start, start + len(part)) for start, part in parts]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
