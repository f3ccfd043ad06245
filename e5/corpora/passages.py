"""Splits long documents into passages: at sentences where that is possible, else at words.

The splitter is `semantic-text-splitter`'s; tokens are counted by the model's own tokenizer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from e5.corpora.documents import Passage
from e5.errors import InputError


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


def passages(text: str, size: PassageSize, count: Callable[[str], int]) -> list[Passage]:
    """The passages of a text, in order, without blanks at their ends.

    Args:
        text: not blank.
        size: of a passage.
        count: gives the number of tokens of a passage.

    Example:
        >>> words = lambda part: len(part.split())
        >>> text = "Snow is frozen water. It falls in winter, and it melts."
        >>> [(p.text, p.start, p.end) for p in passages(text, PassageSize(8), words)]
        [('Snow is frozen water.', 0, 21), ('It falls in winter, and it melts.', 22, 55)]
    """
    from semantic_text_splitter import TextSplitter  # only where something is split

    splitter = TextSplitter.from_callback(count, size.tokens, overlap=size.overlap)
    return [Passage(part, start, start + len(part)) for start, part in splitter.chunk_indices(text)]
