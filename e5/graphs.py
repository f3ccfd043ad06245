"""CUDA graphs: small batches without the time that the host needs to launch kernels.

A forward of few tokens waits for the host, which launches about a thousand kernels one by one: on
an H100 15 ms, where the card needs 8.5. A graph launches them all at once, but only for the shapes
it was captured with. So a batch is padded with filler texts to the next size that has a graph.
Attention keeps texts apart, so the filler texts change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from e5.packing import PackedBatch, TokenIds, pack

# Tokens of a batch. Larger batches keep a card busy for longer than their launches take.
SIZES = (32, 64, 128, 256)
TOKENS_PER_TEXT = 16  # a graph of n tokens has n/16 texts, filler texts included
UNSHARED = 1 << 30  # longer than any prefix, because shared tokens would change the shape


def size_for(texts: Sequence[TokenIds]) -> int | None:
    """The smallest size that holds `texts` and at least one filler text; None: they are too many.

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
    """`texts`, then filler texts: always `size` tokens and `size // TOKENS_PER_TEXT` texts.

    Every shape and every plain number of the batch depends on `size` alone.
    """
    # All filler texts but the last have one token.
    short_fillers = size // TOKENS_PER_TEXT - len(texts) - 1
    rest = size - short_fillers - sum(map(len, texts))
    batch = pack([*texts, *[(2,)] * short_fillers, (2,) * rest], min_shared=UNSHARED)
    spans = replace(batch.spans, max_seqlen_q=size, max_seqlen_k=size)
    return replace(batch, spans=spans, last_spans=replace(batch.last_spans, max_seqlen_k=size))


class Graphs:
    """One captured forward for each of `SIZES`. Two threads must not call it at the same time."""

    def __init__(self, run: Callable[[PackedBatch], torch.Tensor], device: torch.device) -> None:
        """Capture `run` on a CUDA device, the largest size first, whose memory the others reuse."""
        self._captured = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(SIZES):
            batch = padded([], size).to(device)
            run(batch)  # one-time work cannot be captured
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):  # on a stream of its own
                self._captured[size] = graph, batch, run(batch)

    def __call__(self, texts: Sequence[TokenIds]) -> torch.Tensor | None:
        """The vectors of `texts`, valid until the next call; None if they are too many."""
        size = size_for(texts)
        if size is None:
            return None
        graph, batch, vectors = self._captured[size]
        tensors, new_tensors = _variable_tensors(batch), _variable_tensors(padded(texts, size))
        for tensor, new_tensor in zip(tensors, new_tensors, strict=True):
            tensor.copy_(new_tensor)
        graph.replay()
        return vectors[: len(texts)]


def _variable_tensors(batch: PackedBatch) -> list[torch.Tensor]:
    """The tensors in which two batches of one size differ."""
    starts = batch.spans.cu_seqlens_q, batch.spans.cu_seqlens_k, batch.last_spans.cu_seqlens_k
    return [batch.input_ids, batch.position_ids, batch.last_index, *starts]
