"""Passages are parts of their document, none too long, and nothing between them is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5.corpora.documents import PassageSize
from e5.embedder import Embedder
from e5.errors import InputError

WORDS = ["snow", "is", "frozen", "water.", "It falls.", "\n", "\n\n", "Schnee", "雪が降る。", "😀"]


@settings(max_examples=40)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=200),
    tokens=st.integers(8, 40),
    share=st.sampled_from([0, 0.3]),
)
def test_any_text_is_split_without_loss(
    words: list[str], tokens: int, share: float, embedder: Embedder
) -> None:
    text = " ".join(words)
    size = PassageSize(tokens, int(share * tokens))

    def count(part: str) -> int:
        return embedder.tokenize([], [part], task="")[0].num_tokens - 2

    found = size.split(text, count)
    read = 0
    for part in found:
        assert text[part.start : part.end] == part.text
        assert part.text == part.text.strip()
        assert 0 < count(part.text) <= tokens
        assert not text[read : part.start].strip()  # only blanks are left out
        assert size.overlap or part.start >= read
        read = max(read, part.end)
    assert not text[read:].strip()
    assert len(found) <= 4 * size.estimated_passages(len(text))


def test_a_passage_ends_where_a_sentence_ends() -> None:
    text = "Snow is frozen water. It falls in winter. Tea is hot. It is made of leaves."
    found = PassageSize(9).split(text, lambda part: len(part.split()))
    assert [part.text for part in found] == [
        "Snow is frozen water. It falls in winter.",
        "Tea is hot. It is made of leaves.",
    ]


@pytest.mark.parametrize(
    ("numbers", "field"), [((7, 0), "passages"), ((8, 8), "overlap"), ((8, -1), "overlap")]
)
def test_numbers_that_make_no_passages_are_refused(numbers: tuple[int, int], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: received "):
        PassageSize(*numbers)
