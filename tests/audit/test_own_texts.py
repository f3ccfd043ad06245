"""The audit's own texts show what can go wrong, and no text stands for two."""

import itertools
from pathlib import Path

from checkpoints import true_ids

from e5.audit.own_texts import OWN_TEXTS
from e5.texts import check_text
from e5.tokenizer import Tokenizer

MINI = Path(__file__).parents[2] / "weights" / "e5-mini" / "tokenizer.json"


def test_each_can_be_embedded_and_has_a_name_of_its_own() -> None:
    assert len({text.name for text in OWN_TEXTS}) == len(OWN_TEXTS)
    assert len({text.text for text in OWN_TEXTS}) == len(OWN_TEXTS)
    assert all(check_text(text.text, "text") and text.side in text.name for text in OWN_TEXTS)


def test_they_fit_into_the_smallest_usual_batch() -> None:
    assert len(OWN_TEXTS) <= 32  # text-embeddings-inference takes no more in a request


def test_they_show_what_is_often_lost() -> None:
    for side in ("query", "document"):
        found = [text.text for text in OWN_TEXTS if text.side == side]
        assert any("\n" in text for text in found)
        assert any(text != text.strip() for text in found)
        assert any("</s>" in text for text in found)
        assert any(text != text.lower() for text in found)
        assert any(not text.isascii() for text in found)


def test_they_lie_on_both_sides_of_each_length_that_engines_truncate_to() -> None:
    mini = Tokenizer(MINI, max_length=100_000)
    for lengths in (
        [len(true_ids(text.text, 100_000)) for text in OWN_TEXTS],
        [len(mini.encode([text.text])[0].token_ids) for text in OWN_TEXTS],
    ):
        bounds = [0, 128, 256, 512, 1024, 2048, 4096]
        for low, high in itertools.pairwise(bounds):
            assert any(low < length < high for length in lengths)
        assert max(lengths) < 4096
