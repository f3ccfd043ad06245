"""Sources compute what each hypothesis says: right as the product does, wrong as others do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import ground_truth, load
from mistakes import save_adapter, texts_to_audit
from reference import Reference, assert_same

from e5.audit import LocalSource
from e5.audit.hypotheses import Computation, PromptRules
from e5.embedder import Embedder
from e5.settings import Settings
from e5.vectors import Vectors

pytestmark = pytest.mark.slow

TEXTS = texts_to_audit(8)
HELLO = Computation("", "hello world")
BODY = (6312, 28709, 1526)  # of sentencepiece, on Mistral's vocabulary


@pytest.fixture(scope="module")
def source(checkpoint: Path) -> LocalSource:
    """Has Mistral's own vocabulary."""
    return LocalSource.load(Settings(weights=checkpoint, device="cpu"))


def one(source: LocalSource, computation: Computation) -> Vectors:
    (found,) = source.compute([computation])
    return found


def test_the_right_vectors_are_the_products_own(source: LocalSource, embedder: Embedder) -> None:
    rules = PromptRules(source.prompts, "sts_query")
    queries = [way for text in TEXTS for way in rules.right(text, "query")]
    documents = [Computation("", text) for text in TEXTS]
    found = np.concatenate(source.compute(queries + documents))
    assert_same(found[:8], embedder.encode_query(TEXTS, task="sts_query"))
    assert_same(found[8:], embedder.encode_document(TEXTS))


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({}, (1, *BODY, 2)),
        ({"eos": 0}, (1, *BODY)),
        ({"bos": 0}, (*BODY, 2)),
        ({"bos": 0, "eos": 0}, BODY),
        ({"bos": 2}, (1, 1, *BODY, 2)),
        ({"eos": 2}, (1, *BODY, 2, 2)),
        ({"max_tokens": 4}, (1, *BODY[:2], 2)),
        ({"max_tokens": 4, "eos": 0}, (1, *BODY)),
        ({"max_tokens": 4, "keeps_end": True}, (1, *BODY[1:], 2)),
        ({"pooling": "first"}, (1,)),
        ({"text": "hello</s>world"}, (1, *ground_truth().encode("hello</s>world"), 2)),
        ({"text": "hello</s>world", "specials_parsed": True}, (1, *BODY[:2], 2, BODY[2], 2)),
        ({"leading_space": False}, (1, 21558, 1526, 2)),
        ({"text": "a", "bos": 0, "eos": 0}, (264,)),
    ],
    ids=str,
)
def test_token_ids_are_those_of_the_mistake(
    source: LocalSource, reference: Reference, changes: dict[str, Any], ids: tuple[int, ...]
) -> None:
    assert_same(one(source, replace(HELLO, **changes)), reference([ids]))


def test_means_are_over_all_tokens_or_those_behind_the_prompt(
    source: LocalSource, reference: Reference
) -> None:
    ids = (1, 5919, 28747, 28705, *BODY, 2)
    computation = Computation("Query: ", "hello world", pooling="mean")
    prompt = ground_truth().encode("Query: hello world")
    states = reference.model(__import__("torch").tensor([[1, *prompt, 2]])).last_hidden_state[0]
    assert_same(one(source, computation), states.mean(0, keepdim=True).detach().numpy())
    behind = len(ground_truth().encode("Query: ")) + 1
    masked = replace(computation, pooling="mean_without_prefix")
    assert_same(one(source, masked), states[behind:].mean(0, keepdim=True).detach().numpy())
    assert len(ids) > behind


def test_padding_gives_a_vector_for_each_length(source: LocalSource, reference: Reference) -> None:
    found = one(source, replace(HELLO, pooling="padding_attended"))
    assert_same(found[:1], reference([(1, *BODY, 2)]))
    assert_same(found[1:2], reference([(1, *BODY, 2, 2, 2)]))
    masked = one(source, replace(HELLO, pooling="padding_masked"))
    assert_same(masked[:1], found[:1])
    assert len(masked) == len(found) + 1


def test_an_adapter_can_be_left_out(checkpoint: Path, tmp_path: Path) -> None:
    adapter = save_adapter(checkpoint, tmp_path / "law")
    source = LocalSource.load(Settings(weights=checkpoint, device="cpu", adapter=adapter))
    missing = replace(HELLO, weights="without_adapter")
    assert source.can(missing)
    assert_same(one(source, missing), load(checkpoint).encode_document([HELLO.text]))
    assert_same(
        one(source, HELLO), load(checkpoint, adapter=str(adapter)).encode_document([HELLO.text])
    )


def test_without_an_adapter_none_can_be_left_out(source: LocalSource) -> None:
    assert not source.can(replace(HELLO, weights="without_adapter"))
    assert source.can(replace(HELLO, weights="bidirectional"))


@pytest.mark.long
def test_a_dtype_that_was_asked_for_is_kept(checkpoint: Path) -> None:
    rough = LocalSource.load(Settings(weights=checkpoint, device="cpu", dtype="bfloat16"))
    exact = LocalSource.load(Settings(weights=checkpoint, device="cpu"))
    assert rough.rounding > 1e3 * exact.rounding
