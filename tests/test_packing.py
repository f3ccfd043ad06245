"""Nothing is lost in packing: every text can be read back from the flat batch, exactly."""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from e5.packing import (
    MAX_KEYS_PER_TOKEN,
    PackedBatch,
    Spans,
    divide_into_batches,
    pack,
    shared_tokens,
)
from e5.tokenizer import TokenIds

# Few ids and few prefixes, so that texts often begin alike, contain each other or are the same.
# 2 is the id of `</s>`, which a text may hold anywhere: nothing may look for it.
BODIES = st.lists(st.sampled_from([2, 7, 8]), max_size=4)
PREFIXES = st.sampled_from([(), (5,) * 3, (5,) * 6, (5,) * 4 + (6,) * 9, tuple(range(3, 33))])
TEXTS = st.builds(lambda prefix, body: (1, *prefix, *body), PREFIXES, BODIES)
MIXTURES = st.lists(TEXTS, min_size=1, max_size=12)
MIN_SHARED = st.sampled_from([1, 2, 5, 8, 10_000])


def keys_of(batch: PackedBatch) -> list[list[int]]:
    """Where each text's tokens lie on the flat axis."""
    index = batch.key_index
    flat = index.tolist() if index is not None else list(range(len(batch.input_ids)))
    bounds = batch.spans.cu_seqlens_k.tolist()
    return [flat[start:stop] for start, stop in pairwise(bounds)]


def unpack(batch: PackedBatch) -> list[TokenIds]:
    """The texts that were packed."""
    return [tuple(batch.input_ids[keys].tolist()) for keys in keys_of(batch)]


def tokens_and_keys(texts: Sequence[TokenIds], min_shared: int) -> tuple[int, int]:
    """How many tokens `pack` computes for these texts, and how many keys it gathers."""
    batch = pack(texts, min_shared=min_shared)
    return len(batch.input_ids), sum(batch.spans.key_lengths)


@given(texts=MIXTURES, min_shared=MIN_SHARED)
@example(texts=[(1,)], min_shared=1)
@example(texts=[(1, 7, 2), (1, 7, 2), (1, 7)], min_shared=1)
def test_every_text_comes_back(texts: list[TokenIds], min_shared: int) -> None:
    assert unpack(pack(texts, min_shared=min_shared)) == texts


@given(texts=MIXTURES, min_shared=MIN_SHARED)
def test_positions_restart_in_each_text(texts: list[TokenIds], min_shared: int) -> None:
    batch = pack(texts, min_shared=min_shared)
    for text, keys in zip(texts, keys_of(batch), strict=True):
        assert batch.position_ids[keys].tolist() == list(range(len(text)))


@given(texts=MIXTURES, min_shared=MIN_SHARED)
def test_each_text_is_read_from_a_last_token_of_its_own(
    texts: list[TokenIds], min_shared: int
) -> None:
    batch = pack(texts, min_shared=min_shared)
    assert batch.last_index.tolist() == [keys[-1] for keys in keys_of(batch)]
    assert len(set(batch.last_index.tolist())) == len(texts)


@given(texts=MIXTURES, min_shared=MIN_SHARED)
def test_the_rows_of_a_text_are_the_last_of_its_keys(
    texts: list[TokenIds], min_shared: int
) -> None:
    batch = pack(texts, min_shared=min_shared)
    bounds = batch.spans.cu_seqlens_q.tolist()
    for (start, stop), keys in zip(pairwise(bounds), keys_of(batch), strict=True):
        assert keys[len(keys) - (stop - start) :] == list(range(start, stop))


@given(texts=MIXTURES, min_shared=MIN_SHARED)
def test_spans_add_up(texts: list[TokenIds], min_shared: int) -> None:
    batch = pack(texts, min_shared=min_shared)
    lengths = tuple(map(len, texts))
    assert sum(batch.spans.query_lengths) == len(batch.input_ids) == len(batch.position_ids)
    assert min(batch.spans.query_lengths) >= 1
    assert batch.spans.key_lengths == batch.last_spans.key_lengths == lengths
    assert batch.last_spans.query_lengths == (1,) * len(texts)
    if batch.key_index is None:
        assert batch.spans.query_lengths == lengths
    else:
        assert len(batch.key_index) == sum(lengths)
    for spans in (batch.spans, batch.last_spans):
        assert spans.cu_seqlens_q.tolist() == [0, *accumulate(spans.query_lengths)]
        assert spans.cu_seqlens_k.tolist() == [0, *accumulate(spans.key_lengths)]
        assert spans.cu_seqlens_q.dtype == spans.cu_seqlens_k.dtype == torch.int32
        assert spans.max_seqlen_q == max(spans.query_lengths)
        assert spans.max_seqlen_k == max(lengths)


@given(texts=MIXTURES)
def test_in_sorted_order_every_token_of_the_radix_tree_is_computed_once(
    texts: list[TokenIds],
) -> None:
    texts = sorted(set(texts))
    nodes = {text[:length] for text in texts for length in range(1, len(text) + 1)}
    assert len(pack(texts, min_shared=1).input_ids) == len(nodes)


@given(texts=MIXTURES)
def test_without_sharing_texts_lie_one_after_another(texts: list[TokenIds]) -> None:
    batch = pack(texts, min_shared=10_000)
    assert batch.key_index is None
    assert batch.input_ids.tolist() == list(chain(*texts))


@given(previous=TEXTS, text=TEXTS, min_shared=MIN_SHARED)
def test_shared_tokens_are_the_common_prefix_less_the_last_token(
    previous: TokenIds, text: TokenIds, min_shared: int
) -> None:
    common = 0
    while text[: common + 1] == previous[: common + 1] and common < len(text) - 1:
        common += 1
    assert shared_tokens(previous, text, min_shared) == (common if common >= min_shared else 0)


def test_the_layout_in_the_module_docstring_is_true() -> None:
    batch = pack([(1, 7, 8, 9, 2), (1, 7, 8, 5, 2)], min_shared=3)
    assert batch.input_ids.tolist() == [1, 7, 8, 9, 2, 5, 2]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert batch.spans.query_lengths == (5, 2)
    assert batch.spans.key_lengths == (5, 5)
    assert batch.key_index is not None
    assert batch.key_index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6]
    assert batch.last_index.tolist() == [4, 6]


@pytest.mark.parametrize("min_shared", [1, 100])
def test_a_batch_moves_to_a_device_as_a_whole(min_shared: int) -> None:
    batch = pack([(1, 7, 2), (1, 7, 8, 2)], min_shared=min_shared).to(torch.device("meta"))
    parts = [*vars(batch).values(), *vars(batch.spans).values(), *vars(batch.last_spans).values()]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    assert len(tensors) == (8 if min_shared == 1 else 7)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert Spans.of([1], [2]).to(torch.device("meta")).query_lengths == (1,)


class TestFill:
    """Batches cover the texts, keep the budget and waste none of it."""

    @given(texts=MIXTURES, budget=st.integers(1, 60), min_shared=MIN_SHARED)
    def test_every_text_is_in_one_batch_in_order(
        self, texts: list[TokenIds], budget: int, min_shared: int
    ) -> None:
        batches = list(divide_into_batches(texts, max_batch_tokens=budget, min_shared=min_shared))
        assert list(chain(*batches)) == texts
        assert all(batches)

    @given(texts=MIXTURES, budget=st.integers(1, 60), min_shared=MIN_SHARED)
    def test_only_a_lone_text_may_exceed_the_budget(
        self, texts: list[TokenIds], budget: int, min_shared: int
    ) -> None:
        for batch in divide_into_batches(texts, max_batch_tokens=budget, min_shared=min_shared):
            tokens, keys = tokens_and_keys(batch, min_shared)
            assert len(batch) == 1 or tokens <= budget
            assert len(batch) == 1 or keys <= MAX_KEYS_PER_TOKEN * budget

    @given(texts=MIXTURES, budget=st.integers(1, 60), min_shared=MIN_SHARED)
    def test_the_next_text_would_not_have_fitted(
        self, texts: list[TokenIds], budget: int, min_shared: int
    ) -> None:
        batches = list(divide_into_batches(texts, max_batch_tokens=budget, min_shared=min_shared))
        for batch, following in pairwise(batches):
            tokens, keys = tokens_and_keys([*batch, following[0]], min_shared)
            assert tokens > budget or keys > MAX_KEYS_PER_TOKEN * budget

    def test_the_keys_of_shared_prefixes_are_bounded(self) -> None:
        texts = [(1, *range(3, 103), 200 + i, 2) for i in range(500)]  # 2 tokens and 103 keys each
        batches = list(divide_into_batches(texts, max_batch_tokens=1000))
        keys = [tokens_and_keys(batch, 8)[1] for batch in batches]
        assert max(keys) <= MAX_KEYS_PER_TOKEN * 1000
        assert max(keys) > MAX_KEYS_PER_TOKEN * 1000 - 103
        assert list(chain(*batches)) == texts

    def test_no_texts_fill_no_batches(self) -> None:
        assert list(divide_into_batches([], max_batch_tokens=10)) == []
