"""Padding to a graph's shape changes no vector, and each size has one shape.

Capturing and replaying need a card; a fake graph runs its forward again.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from varlen_on_cpu import as_on_a_card

from e5.checkpoint import Checkpoint
from e5.engine import Engine
from e5.forward import forward
from e5.graphs import (
    ALWAYS_CAPTURED,
    SIZES,
    TOKENS_PER_TEXT,
    UNSHARED_SIZE,
    Graphs,
    padded,
    size_for,
)
from e5.mistral import Mistral
from e5.packing import MAX_KEYS_PER_TOKEN, PackedBatch, Spans, pack
from e5.tokenizer import TokenIds
from e5.weights import load_model

CPU = torch.device("cpu")
PROMPTS: list[TokenIds] = [(), tuple(range(50, 70)), (*range(50, 60), 9, 9), (2,) * 12]
BODY = st.lists(st.integers(0, 31_999), max_size=12)
TEXT = st.builds(
    lambda p, body, n: (1, *p, *body * n, 2), st.sampled_from(PROMPTS), BODY, st.integers(1, 4)
)
TEXTS = st.lists(TEXT, min_size=1, max_size=10).map(sorted)


def queries(count: int, prompt: int = 20, own: int = 12) -> list[TokenIds]:
    """Queries of one task, in sorted order."""
    draw = random.Random(count)
    beginning = (1, *draw.choices(range(3, 32_000), k=prompt - 1))
    ends = [draw.choices(range(3, 32_000), k=own - 1) for _ in range(count)]
    return sorted((*beginning, *end, 2) for end in ends)


@pytest.fixture(scope="module")
def model(calm_checkpoint: Path) -> Mistral:
    return load_model(Checkpoint.find(calm_checkpoint), device=CPU, dtype=torch.bfloat16)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "size"),
    [
        (queries(8), 128),
        (queries(32), 512),
        (queries(56), 768),
        (queries(60, prompt=100), 1024),
        ([*queries(9), *queries(7, prompt=40)], 384),
        ([(1, *range(500, 1150), 2)], 768),
    ],
)
def test_so_do_larger_batches_which_share_prompts(
    model: Mistral, texts: list[TokenIds], size: int
) -> None:
    assert size_for(texts) == size
    with as_on_a_card() as calls:
        alone = forward(model, pack(texts))
        computed = calls[0][1]
        vectors = forward(model, padded(texts, size))[: len(texts)]
    assert computed == len(pack(texts).input_ids) < size
    assert torch.cosine_similarity(vectors, alone).min() >= 0.9995


@pytest.mark.slow
@given(texts=TEXTS)
def test_keys_behind_those_of_the_texts_change_no_bit(
    model: Mistral, texts: list[TokenIds]
) -> None:
    size = size_for(texts, [128, 256])
    if size is None:
        return
    batch = padded(texts, size)
    assert batch.key_index is not None
    used = int(batch.spans.cu_seqlens_k[-1])
    others = batch.key_index.clone()
    others[used:] = torch.randint(size, (len(others) - used,))
    with as_on_a_card():
        vectors = forward(model, batch)
        assert torch.equal(vectors, forward(model, replace(batch, key_index=others)))
        if used == size:  # nothing is shared
            assert torch.equal(vectors, forward(model, replace(batch, key_index=None)))


@given(texts=TEXTS)
def test_a_size_has_one_shape_whatever_is_in_it(texts: list[TokenIds]) -> None:
    size = size_for(texts)
    if size is not None:
        assert shapes(padded(texts, size)) == shapes(padded([], size))


@given(texts=TEXTS, size=st.sampled_from(SIZES))
def test_all_texts_are_in_a_padded_batch(texts: list[TokenIds], size: int) -> None:
    if size_for(texts, [size]) is None:
        return
    batch = padded(texts, size)
    assert len(batch.input_ids) == size
    assert len(batch.last_index) == size // TOKENS_PER_TEXT
    index = torch.arange(size) if batch.key_index is None else batch.key_index
    assert (batch.key_index is None) == (size <= UNSHARED_SIZE)
    assert len(index) == (size if batch.key_index is None else MAX_KEYS_PER_TOKEN * size)
    starts = batch.spans.cu_seqlens_k.tolist()
    for i, text in enumerate(texts):
        assert tuple(batch.input_ids[index[starts[i] : starts[i + 1]]].tolist()) == text


@given(texts=TEXTS)
def test_the_smallest_size_that_fits_is_taken(texts: list[TokenIds]) -> None:
    fitting = []
    for size in SIZES:
        batch = pack(texts, min_shared=8 if size > UNSHARED_SIZE else 10**6)
        fillers = size // TOKENS_PER_TEXT - len(texts)  # two or more, of one or more tokens
        fits = fillers >= 2 and len(batch.input_ids) + fillers <= size
        if fits and sum(map(len, texts)) + size <= MAX_KEYS_PER_TOKEN * size:
            fitting.append(size)
    assert size_for(texts) == (fitting[0] if fitting else None)


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        ([(1,) * 29], 32),
        ([(1,) * 30], 64),
        (queries(2, own=5), 64),
        (queries(3, own=5), 128),  # 75 tokens unshared
        ([(1,) * 897], 1024),  # and 127 filler texts
        ([(1,) * 898], None),
        ([(1, i) for i in range(126)], 1024),
        ([(1, i) for i in range(127)], None),
        (queries(30, prompt=300, own=4), None),  # 420 tokens, and 9,120 keys
        (queries(20, prompt=300, own=4), 1024),  # 380 tokens, and 6,080 keys
    ],
)
def test_texts_tokens_and_keys_are_bounded(texts: list[TokenIds], size: int | None) -> None:
    assert size_for(texts) == size


def sums(batch: PackedBatch) -> torch.Tensor:
    """A number for each text, of all that it reads; much cheaper than a forward."""
    values = batch.input_ids * (batch.position_ids + 1)
    keys = values if batch.key_index is None else values[batch.key_index]
    until = torch.cat((torch.zeros(1, dtype=torch.int64), keys.cumsum(0)))
    starts = batch.spans.cu_seqlens_k.long()
    return (until[starts[1:]] - until[starts[:-1]]) * 40_000 + batch.input_ids[batch.last_index]


class Card:
    """A card of which a graph is the function that was captured, run again."""

    def __init__(self, as_fast_up_to: int = max(SIZES), room: int = max(SIZES)) -> None:
        """Larger batches take longer than their launches on the host, or do not fit in memory."""
        self.limit, self.room = as_fast_up_to, room
        self.clock, self.ready = 0.0, 0.0  # now; when the card has computed what was launched
        self.captured: list[int] = []  # sizes in the order of capture
        self.replays = 0

    def run(self, batch: PackedBatch) -> torch.Tensor:
        tokens = len(batch.input_ids)
        if tokens > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batch, self.vectors = batch, sums(batch)
        self.clock += 1.0
        self.ready = self.clock + (1.0 if tokens > self.limit else 0.01)
        return self.vectors

    @contextmanager
    def capturing(self, graph: Any, **_: Any) -> Iterator[None]:
        yield
        batch, vectors = self.batch, self.vectors
        self.captured.append(len(batch.input_ids))

        def replay() -> None:
            self.replays += 1
            vectors.copy_(sums(batch))

        graph.replay = replay

    def synchronize(self, _: torch.device) -> None:
        self.clock = max(self.clock, self.ready)

    def graphs(self) -> Graphs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.cuda.CUDAGraph", SimpleNamespace)
            patch.setattr("torch.cuda.graph", self.capturing)
            patch.setattr("torch.cuda.graph_pool_handle", lambda: None)
            patch.setattr("torch.cuda.synchronize", self.synchronize)
            patch.setattr("e5.graphs.time", SimpleNamespace(perf_counter=lambda: self.clock))
            return Graphs(self.run, CPU)


class TestGraphs:
    """What is captured, and what a replay gives."""

    def test_the_largest_is_captured_first_and_makes_room_for_all(self) -> None:
        card = Card()
        assert card.graphs().sizes == list(SIZES)
        assert card.captured == sorted(SIZES, reverse=True)

    @given(batches=st.lists(TEXTS, min_size=2, max_size=6))
    def test_nothing_of_one_batch_is_left_in_the_next(self, batches: list[list[TokenIds]]) -> None:
        graphs = GRAPHS
        for texts in [*batches, queries(32), *batches]:
            found = graphs(texts)
            assert (found is None) == (size_for(texts) is None)
            assert found is None or torch.equal(found, sums(pack(texts)))

    @pytest.mark.parametrize("limit", [0, 256, 512, 768, 1024])
    def test_only_sizes_that_the_host_launches_more_slowly_are_captured(self, limit: int) -> None:
        card = Card(as_fast_up_to=limit)
        graphs = card.graphs()
        assert graphs.sizes == [size for size in SIZES if size <= max(limit, ALWAYS_CAPTURED)]
        assert card.captured == graphs.sizes[::-1]
        assert graphs([(1,) * (max(graphs.sizes) - 1)]) is None

    def test_a_size_that_does_not_fit_in_memory_is_left_out(self) -> None:
        assert Card(room=512).graphs().sizes == [32, 64, 128, 256, 384, 512]

    def test_texts_that_must_be_apart_are_in_no_graph(self, model: Mistral) -> None:
        engine, asked = Engine(model, max_batch_tokens=2048), []

        def observed(texts: list[TokenIds]) -> None:
            asked.append(texts)

        engine._graphs = observed  # type: ignore[assignment]
        engine.compute(queries(8))
        assert asked == [queries(8)]
        engine.compute(queries(8), share_prefixes=False)
        assert len(asked) == 1


GRAPHS = Card().graphs()


@pytest.mark.gpu
def test_replayed_graphs_give_what_the_forward_gives(calm_checkpoint: Path) -> None:
    cuda = torch.device("cuda")
    model = load_model(Checkpoint.find(calm_checkpoint), device=cuda, dtype=torch.float16)
    graphs = Graphs(lambda batch: forward(model, batch), cuda)
    draw = random.Random(0)
    for _ in range(200):  # the sizes take turns: nothing of one batch is left in the next
        count, prompt = draw.choice([1, 3, 8, 30, 60]), draw.choice([1, 20, 40])
        texts = queries(count, prompt=prompt, own=draw.randint(2, 20))
        vectors = graphs(texts)
        if vectors is None:
            assert size_for(texts, graphs.sizes) is None
            continue
        alone = forward(model, pack(texts).to(cuda))
        assert torch.cosine_similarity(vectors, alone).min() >= 0.9995
    assert graphs([(1,) * max(SIZES)]) is None
