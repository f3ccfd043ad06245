"""Long documents cut into passages: at sentences where that is possible, else at words.

The splitter is `semantic-text-splitter`'s; tokens are counted by the model's own tokenizer. Knows
nothing of rows, vectors or shards.
"""

from collections.abc import Callable
from dataclasses import dataclass

from e5.corpora.documents import Passage
from e5.errors import InputError


@dataclass(frozen=True)
class PassageSize:
    """How documents are cut.

    Attributes:
        tokens: the most tokens of a passage, without its two ends and any prompt.
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
        """How many passages a text of so many characters makes, about."""
        step = self.tokens - self.overlap
        return 1 + characters // (2 * step)


def passages(text: str, cut: PassageSize, count: Callable[[str], int]) -> list[Passage]:
    """The passages of a text, in order, without blanks at their ends.

    Args:
        text: not blank.
        cut: how.
        count: the number of tokens of a part.

    Example:
        >>> words = lambda part: len(part.split())
        >>> text = "Snow is frozen water. It falls in winter, and it melts."
        >>> [(p.text, p.start, p.end) for p in passages(text, PassageSize(8), words)]
        [('Snow is frozen water.', 0, 21), ('It falls in winter, and it melts.', 22, 55)]
    """
    from semantic_text_splitter import TextSplitter  # only where something is cut

    splitter = TextSplitter.from_callback(count, cut.tokens, overlap=cut.overlap)
    return [Passage(part, at, at + len(part)) for at, part in splitter.chunk_indices(text)]
