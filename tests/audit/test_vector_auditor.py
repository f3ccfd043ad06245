"""One vector is judged with the model that is loaded, and nothing else is."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from e5.audit.hypotheses import Computation
from e5.audit.local_source import LocalSource
from e5.audit.vector_auditor import VectorAuditor
from e5.embedder import Embedder
from e5.errors import InputError
from e5.settings import Settings

pytestmark = pytest.mark.slow

TEXT = "Snow is frozen water.\nIt falls in Winter, and is </s> no rain."


@pytest.fixture
def auditor(checkpoint: Path, embedder: Embedder) -> VectorAuditor:
    settings = Settings(weights=checkpoint, device="cpu", dtype="float32")
    return VectorAuditor(lambda: LocalSource(embedder, settings, rounding=2e-7, loads_more=False))


def judged(auditor: VectorAuditor, vector: object, **options: Any) -> dict[str, Any]:
    given = {"text": TEXT, "role": "auto", "task": None} | options
    return asyncio.run(auditor.judge(given["text"], vector, given["role"], given["task"]))


def test_a_right_vector_is_right(auditor: VectorAuditor, embedder: Embedder) -> None:
    for vector in (embedder.encode_document(TEXT), embedder.encode_query(TEXT)):
        assert judged(auditor, str(vector.tolist()))["verdict"] == "right"
    found = judged(auditor, vector.tolist(), role="query", task="SciFact")
    assert "other_instruction" in found["verdict"]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (TEXT.replace("\n", " "), "newlines_replaced"),
        (TEXT.lower(), "lowercased"),
        (f"passage: {TEXT}", "e5_prefix"),
    ],
)
def test_a_mistake_is_named(
    text: str, verdict: str, auditor: VectorAuditor, embedder: Embedder
) -> None:
    vector = embedder.encode_document(text).tolist()
    assert judged(auditor, vector, role="document")["verdict"] == verdict


def test_a_token_that_is_missing_is_named(auditor: VectorAuditor, embedder: Embedder) -> None:
    (tokenized,) = embedder.tokenize(documents=[TEXT])
    vector = embedder.compute([tokenized.token_ids[:-1]]).vectors[0].tolist()
    found = judged(auditor, vector)
    assert found["verdict"] == "no_eos"
    assert found["cosine"] == pytest.approx(1, abs=1e-5)


def test_many_are_judged_one_after_another(auditor: VectorAuditor, embedder: Embedder) -> None:
    vectors = [embedder.encode_document(text).tolist() for text in (TEXT, TEXT.lower())]

    async def story() -> list[dict[str, Any]]:
        asked = (auditor.judge(TEXT, vector, "document", None) for vector in vectors * 2)
        return list(await asyncio.gather(*asked))

    verdicts = [found["verdict"] for found in asyncio.run(story())]
    assert verdicts == ["right", "lowercased"] * 2


def test_only_what_the_loaded_model_gives_is_computed(checkpoint: Path, embedder: Embedder) -> None:
    settings = Settings(weights=checkpoint, device="cpu", dtype="float32")
    source = LocalSource(embedder, settings, rounding=2e-7, loads_more=False)
    assert source.can(Computation("", "snow"))
    assert source.can(Computation("", "snow", eos=0))
    assert source.can(Computation("", "snow", pooling="first"))
    assert not source.can(Computation("", "snow", pooling="mean"))
    assert not source.can(Computation("", "snow", pooling="padding_masked"))
    assert not source.can(Computation("", "snow", weights="bidirectional"))


@pytest.mark.parametrize(
    ("options", "vector", "sentence"),
    [
        ({"text": " "}, [1.0], "text: received blank text"),
        ({"text": "x" * 10_001}, [1.0], "text: received 10001 characters; send at most 10000."),
        ({"role": "title"}, [1.0], 'role: received "title"; use query, document or auto.'),
        ({}, "no numbers", "vector: received 'no numbers', which is no vector; send its numbers."),
        ({}, [], "vector: received no vector; send its numbers."),
        ({"task": "x" * 10_001}, [1.0] * 64, "task: received 10001 characters"),
    ],
)
def test_what_cannot_be_judged_is_named(
    options: Any, vector: Any, sentence: str, auditor: VectorAuditor
) -> None:
    with pytest.raises(InputError) as raised:
        judged(auditor, vector, **options)
    assert str(raised.value).startswith(sentence)
