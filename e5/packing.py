"""Packing: token ids of many texts -> one flat batch without padding, shared prefixes once.

Texts lie one after another on one flat axis. A text that begins with the same ids as the text
before it does not repeat them: under causal attention a token depends only on itself and on what
precedes it, so the earlier copy serves both, exactly. With the texts

    [1 7 8 9 2]  and  [1 7 8 5 2]      (min_shared = 3)

the batch is

    input_ids     1 7 8 9 2 5 2
    position_ids  0 1 2 3 4 3 4
    query_lengths 5, 2                 tokens computed for each text
    key_lengths   5, 5                 tokens of each text
    key_index     0 1 2 3 4 0 1 2 5 6  their flat positions, text after text
    last_index    4 6                  the `</s>` of each text, which gives its vector

In sorted order each text shares with its neighbour all that they have in common. So each token of
the texts' radix tree is computed once, without building a tree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from e5.tokenizer import TokenIds

# Sharing fewer tokens costs more, in bookkeeping and masked attention, than it saves.
MIN_SHARED = 8
# Keys and values of a shared token are copied for each text that shares it. A copy takes about 1/16
# of the memory of a computed token's activations, so this limit bounds the memory of a batch.
MAX_KEYS_PER_TOKEN = 8


class _OnDevice:
    """Base of the dataclasses that hold tensors."""

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        """The same values with their tensors on `device`."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor | _OnDevice)
        }
        return type(self)(**(vars(self) | moved))


@dataclass(frozen=True)
class Spans(_OnDevice):
    """Which query rows attend to which keys: text i owns `query_lengths[i]` rows and all its keys.

    These rows are the last `query_lengths[i]` of its `key_lengths[i]` tokens. The tensors are the
    int32 cumulative sums `[num_texts + 1]` of the tuples; `max_seqlen_q` and `max_seqlen_k` are the
    maxima of the tuples, as plain numbers: torch.compile would compile again for every tuple.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    max_seqlen_q: int
    max_seqlen_k: int

    @classmethod
    def of(cls, query_lengths: Sequence[int], key_lengths: Sequence[int]) -> "Spans":
        """Spans with their cumulative sums, on the CPU."""
        rows, keys = tuple(query_lengths), tuple(key_lengths)
        return cls(rows, keys, _cumulative(rows), _cumulative(keys), max(rows), max(keys))


@dataclass(frozen=True)
class PackedBatch(_OnDevice):
    """The texts of one forward, and how they lie on the flat axis.

    Attributes:
        input_ids: int64 `[total_tokens]`.
        position_ids: int64 `[total_tokens]`, positions within each text.
        key_index: int64 `[sum of key_lengths]`, flat positions of each text's tokens; None if
            nothing is shared, because they would be 0, 1, 2, ...
        last_index: int64 `[num_texts]`, the flat position of each text's last token.
        spans: every token of every text as a query.
        last_spans: only the last token of each text as a query.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    key_index: torch.Tensor | None
    last_index: torch.Tensor
    spans: Spans
    last_spans: Spans


def pack(texts: Sequence[TokenIds], *, min_shared: int = MIN_SHARED) -> PackedBatch:
    """Put `texts` (none empty) on one flat axis; row i of the forward is text i.

    Any order is correct; sorted order shares the most. A text shares a prefix of at least
    `min_shared` ids with the text before it, but never its own last token.

    Example:
        >>> pack([(1, 7, 8, 9, 2), (1, 7, 8, 5, 2)], min_shared=3).input_ids.tolist()
        [1, 7, 8, 9, 2, 5, 2]
    """
    input_ids: list[int] = []
    position_ids: list[int] = []
    key_index: list[int] = []
    last_index: list[int] = []
    query_lengths: list[int] = []
    flat_positions: list[int] = []  # of the current text's tokens
    previous: TokenIds = ()
    for text in texts:
        shared = shared_tokens(previous, text, min_shared)
        own = range(len(input_ids), len(input_ids) + len(text) - shared)
        flat_positions = [*flat_positions[:shared], *own]
        input_ids.extend(text[shared:])
        position_ids.extend(range(shared, len(text)))
        key_index.extend(flat_positions)
        last_index.append(flat_positions[-1])
        query_lengths.append(len(own))
        previous = text
    key_lengths = [len(text) for text in texts]
    return PackedBatch(
        torch.tensor(input_ids),
        torch.tensor(position_ids),
        None if query_lengths == key_lengths else torch.tensor(key_index),
        torch.tensor(last_index),
        Spans.of(query_lengths, key_lengths),
        Spans.of([1] * len(texts), key_lengths),
    )


def divide_into_batches(
    texts: Sequence[TokenIds], *, max_batch_tokens: int, min_shared: int = MIN_SHARED
) -> Iterator[Sequence[TokenIds]]:
    """Divide `texts` into batches of at most `max_batch_tokens` computed tokens, in order.

    A shared token is counted once, as in `pack`. A text longer than the budget gets a batch alone.

    Example:
        >>> list(divide_into_batches([(1, 2), (1, 3), (1, 4, 5, 2)], max_batch_tokens=4))
        [[(1, 2), (1, 3)], [(1, 4, 5, 2)]]
    """
    start, tokens, keys = 0, 0, 0
    for i, text in enumerate(texts):
        shared = shared_tokens(texts[i - 1], text, min_shared) if i > start else 0
        tokens += len(text) - shared
        keys += len(text)
        if i > start and (
            tokens > max_batch_tokens or keys > MAX_KEYS_PER_TOKEN * max_batch_tokens
        ):
            yield texts[start:i]
            start, tokens, keys = i, len(text), len(text)
    if start < len(texts):
        yield texts[start:]


def shared_tokens(previous: TokenIds, text: TokenIds, min_shared: int) -> int:
    """How many leading ids `text` shares with `previous`, its last never; 0 below `min_shared`."""
    limit = min(len(previous), len(text) - 1)
    shared = next((i for i in range(limit) if previous[i] != text[i]), max(limit, 0))
    return shared if shared >= min_shared else 0


def _cumulative(lengths: Sequence[int]) -> torch.Tensor:
    return torch.cumsum(torch.tensor([0, *lengths]), 0, dtype=torch.int32)
