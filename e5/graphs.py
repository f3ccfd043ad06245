"""CUDA graphs: small batches without the host's time for their kernel launches.

A forward of few tokens waits for the host, which launches about a thousand kernels one by one: on
an H100 15 ms, where the card needs 8.5. A graph launches them all at once, but only for the shapes
it was captured with. So a batch is padded with made-up texts to the next size that has a graph;
attention keeps texts apart, so they change nothing. Knows nothing of strings or requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from e5.packing import PackedBatch, TokenIds, pack

# Tokens of a batch. Larger batches keep a card busy for longer than their launches take.
SIZES = (32, 64, 128, 256)
TOKENS_PER_TEXT = 16  # a graph of n tokens has n/16 texts, made-up ones included
UNSHARED = 1 << 30  # no prefix is as long: which tokens are shared would be part of the shape


def size_for(texts: Sequence[TokenIds]) -> int | None:
    """The smallest size that holds `texts` and at least one made-up one, each of a token or more.

    Example:
        >>> size_for([(1, 415, 2)]), size_for([(1, 415, 2)] * 2), size_for([(1,) * 256])
        (32, 64, None)
    """
    tokens = sum(map(len, texts))
    for size in SIZES:
        spare = size // TOKENS_PER_TEXT - len(texts)
        if 1 <= spare <= size - tokens:
            return size
    return None


def padded(texts: Sequence[TokenIds], size: int) -> PackedBatch:
    """`texts` first, then made-up ones: always `size` tokens and `size // TOKENS_PER_TEXT` texts.

    Every shape and every plain number in it depends on `size` alone.
    """
    ones = size // TOKENS_PER_TEXT - len(texts) - 1
    rest = size - ones - sum(map(len, texts))
    batch = pack([*texts, *[(2,)] * ones, (2,) * rest], min_shared=UNSHARED)
    spans = replace(batch.spans, max_seqlen_q=size, max_seqlen_k=size)
    return replace(batch, spans=spans, last_spans=replace(batch.last_spans, max_seqlen_k=size))


class Graphs:
    """One captured forward for each of `SIZES`. Not to be called by two threads at once."""

    def __init__(self, run: Callable[[PackedBatch], torch.Tensor], device: torch.device) -> None:
        """Capture `run` on a CUDA device, the largest first: the others fit in its memory."""
        self._captured = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(SIZES):
            batch = padded([], size).to(device)
            run(batch)  # what is only done once cannot be captured
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):  # on a stream of its own
                self._captured[size] = graph, batch, run(batch)

    def __call__(self, texts: Sequence[TokenIds]) -> torch.Tensor | None:
        """What `run` gives for `texts`, valid until the next call; None: they are too many."""
        size = size_for(texts)
        if size is None:
            return None
        graph, batch, vectors = self._captured[size]
        new = padded(texts, size)
        for theirs, mine in zip(_tensors(batch), _tensors(new), strict=True):
            theirs.copy_(mine)
        graph.replay()
        return vectors[: len(texts)]


def _tensors(batch: PackedBatch) -> list[torch.Tensor]:
    """What differs between two batches of one size."""
    starts = batch.spans.cu_seqlens_q, batch.spans.cu_seqlens_k, batch.last_spans.cu_seqlens_k
    return [batch.input_ids, batch.position_ids, batch.last_index, *starts]
