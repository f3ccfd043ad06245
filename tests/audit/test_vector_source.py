"""An encoder computes what differs in the text that it is sent, and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from e5.audit.hypotheses import Computation
from e5.audit.sample import Sample
from e5.audit.vector_source import EncoderSource
from e5.audit.verdict import audit
from e5.embedder import Embedder
from e5.encoder import Encoder
from e5.errors import InputError
from e5.vectors import Vectors

TEXTS = ["Snow is frozen Water.", "A heading\n\nand its text.", " Blanks around it. ", "Four."]


class Watched:
    """An encoder that notes what it is sent."""

    def __init__(self, encoder: Encoder, prompt: str = "") -> None:
        self._encoder, self._prompt = encoder, prompt
        self.name, self.dimensions = encoder.name, encoder.dimensions
        self.sent: list[str] = []

    def encode_query(self, query: str, **options: Any) -> Vectors:
        return self._encoder.encode_query(self._prompt + query, **options)

    def encode_document(self, documents: str | Sequence[str], **options: Any) -> Vectors:
        self.sent += [documents] if isinstance(documents, str) else documents
        return self._encoder.encode_document(documents, **options)


def test_texts_are_sent_once_with_their_prompts(embedder: Embedder) -> None:
    watched = Watched(embedder)
    source = EncoderSource(watched)  # type: ignore[arg-type]
    computations = [Computation("a: ", "snow"), Computation("", "snow"), Computation("a: ", "snow")]
    vectors = source.compute(computations)
    assert watched.sent == ["a: snow", "snow"]
    for each, vector in zip(computations, vectors, strict=True):
        np.testing.assert_allclose(vector[0], embedder.encode_document(each.prompt), atol=1e-5)
    source.compute(computations)
    assert len(watched.sent) == 2


@pytest.mark.parametrize(
    "changes", [{"eos": 0}, {"bos": 2}, {"max_tokens": 9}, {"pooling": "mean"}]
)
def test_what_is_not_in_the_text_cannot_be_computed(
    changes: dict[str, Any], embedder: Embedder
) -> None:
    source = EncoderSource(embedder)
    assert source.can(Computation("a", "b", "c"))
    assert not source.can(Computation("a", "b", "c", **changes))


def test_an_encoder_with_the_usual_prompt_is_taken(embedder: Embedder) -> None:
    source = EncoderSource.checked(embedder)
    given = embedder.encode_document([text.strip() for text in TEXTS])
    sample = Sample(list("abcd"), TEXTS, given, ["document"] * 4)
    report = audit(sample, source, progress=False)
    assert report.verdict == "stripped"
    assert [row.verdict for row in report.rows] == ["right", "right", "stripped", "right"]


def test_an_encoder_with_another_prompt_is_refused(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="set E5_WEIGHTS to its checkpoint instead") as raised:
        EncoderSource.checked(Watched(embedder, "Represent this: "))  # type: ignore[arg-type]
    assert raised.value.field == "reference"
