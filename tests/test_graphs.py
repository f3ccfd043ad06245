"""Padding to a graph's shape changes no vector, and each size has one shape.

Capturing and replaying need a card.
"""

import random
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from varlen_on_cpu import as_on_a_card

from e5.checkpoint import Checkpoint
from e5.forward import forward
from e5.graphs import SIZES, TOKENS_PER_TEXT, Graphs, padded, size_for
from e5.mistral import Mistral
from e5.packing import PackedBatch, Spans, TokenIds, pack
from e5.weights import load_model

CPU = torch.device("cpu")
TEXT = st.lists(st.integers(0, 31_999), max_size=40).map(lambda body: (1, *body, 2))
TEXTS = st.lists(TEXT, min_size=1, max_size=6)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, calm_checkpoint: Path) -> Mistral:
    dtype = getattr(torch, request.param)
    return load_model(Checkpoint.find(calm_checkpoint), device=CPU, dtype=dtype)


def shapes(batch: PackedBatch) -> list[object]:
    """All that a captured forward has in it for ever."""
    parts: tuple[PackedBatch | Spans, ...] = (batch, batch.spans, batch.last_spans)
    values = [getattr(part, field.name) for part in parts for field in fields(part)]
    return [
        (value.shape, value.dtype) if isinstance(value, torch.Tensor) else value
        for value in values
        if isinstance(value, torch.Tensor | int | None)
    ]


@given(texts=TEXTS)
def test_texts_that_are_padded_keep_their_vectors(model: Mistral, texts: list[TokenIds]) -> None:
    size = size_for(texts)
    if size is None:
        return
    with as_on_a_card():
        alone = forward(model, pack(texts))
        vectors = forward(model, padded(texts, size))[: len(texts)]
    assert torch.cosine_similarity(vectors, alone).min() >= 0.9995


@given(texts=TEXTS)
def test_a_size_has_one_shape_whatever_is_in_it(texts: list[TokenIds]) -> None:
    size = size_for(texts)
    if size is not None:
        assert shapes(padded(texts, size)) == shapes(padded([], size))


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_the_smallest_size_that_fits_is_taken(lengths: list[int]) -> None:
    texts = [(1,) * length for length in lengths]
    fitting = []
    for size in SIZES:
        made_up = size // TOKENS_PER_TEXT - len(texts)  # one or more, of one or more tokens
        if made_up >= 1 and sum(lengths) + made_up <= size:
            fitting.append(size)
    assert size_for(texts) == (fitting[0] if fitting else None)


@pytest.mark.gpu
def test_replayed_graphs_give_what_the_forward_gives(calm_checkpoint: Path) -> None:
    cuda = torch.device("cuda")
    model = load_model(Checkpoint.find(calm_checkpoint), device=cuda, dtype=torch.float16)
    graphs = Graphs(lambda batch: forward(model, batch), cuda)
    draw = random.Random(0)
    for _ in range(100):  # the sizes take turns: nothing of one batch is left in the next
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 6))]
        texts = [(1, *draw.choices(range(3, 32_000), k=length), 2) for length in lengths]
        vectors = graphs(texts)
        if vectors is None:
            assert size_for(texts) is None
            continue
        alone = forward(model, pack(texts).to(cuda))
        assert torch.cosine_similarity(vectors, alone).min() >= 0.9995
    assert graphs([(1,) * max(SIZES)]) is None
