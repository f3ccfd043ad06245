"""CUDA graphs: small batches without the time that the host needs to launch kernels.

A forward of few tokens waits for the host, which launches about a thousand kernels one by one: that
takes 15 ms beside an H100, which computes them in 8.5. A graph launches them all at once, but only
for the shapes it was captured with. So a batch is padded with filler texts to the next size that
has a graph. Attention keeps texts apart, so the filler texts change no vector.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from e5.packing import MAX_KEYS_PER_TOKEN, MIN_SHARED, PackedBatch, pack, shared_tokens
from e5.tokenizer import TokenIds

# Numbers of tokens of a batch. Graphs of up to ALWAYS_CAPTURED tokens are captured on every card,
# because they also save work of the host; larger ones only where the card computes the kernels
# faster than the host launches them.
SIZES = (32, 64, 128, 256, 384, 512, 768, 1024)
ALWAYS_CAPTURED = 256
TOKENS_PER_TEXT = 8  # a graph of n tokens has n/8 texts, filler texts included
# Up to this size no prefixes are shared: a card takes as long for 64 tokens as for 32.
UNSHARED_SIZE = 64


def size_for(texts: Sequence[TokenIds], sizes: Sequence[int] = SIZES) -> int | None:
    """The smallest size that holds `texts` and two filler texts; None if there is none.

    Example:
        >>> size_for([(1, 415, 2)]), size_for([(1, 415, 2)] * 3), size_for([(1,) * 1023])
        (32, 64, None)
    """
    keys = sum(map(len, texts))
    for size in sizes:
        spare = size // TOKENS_PER_TEXT - len(texts)
        fits = 2 <= spare <= size - _computed(texts, size)
        if fits and keys + size <= MAX_KEYS_PER_TOKEN * size:
            return size
    return None


def padded(texts: Sequence[TokenIds], size: int) -> PackedBatch:
    """`texts`, then filler texts: always `size` tokens and `size // TOKENS_PER_TEXT` texts.

    Every shape and every plain number of the batch depends on `size` alone. Above `UNSHARED_SIZE`
    zeros follow in `key_index` after the keys of the last text; no text reads them.
    """
    # All filler texts but the last have one token, so that the last one shares nothing.
    short = size // TOKENS_PER_TEXT - len(texts) - 1
    rest = size - short - _computed(texts, size)
    batch = pack([*texts, *[(2,)] * short, (2,) * rest], min_shared=_min_shared(size))
    key_index = batch.key_index
    if size > UNSHARED_SIZE:
        key_index = torch.arange(size) if key_index is None else key_index
        key_index = F.pad(key_index, (0, MAX_KEYS_PER_TOKEN * size - len(key_index)))
    spans = replace(batch.spans, max_seqlen_q=size, max_seqlen_k=size)
    last_spans = replace(batch.last_spans, max_seqlen_k=size)
    return replace(batch, key_index=key_index, spans=spans, last_spans=last_spans)


def _min_shared(size: int) -> int:
    return MIN_SHARED if size > UNSHARED_SIZE else sys.maxsize


def _computed(texts: Sequence[TokenIds], size: int) -> int:
    """The number of tokens that are computed for `texts` in a batch of this size."""
    previous = [(), *texts]
    return sum(
        len(text) - shared_tokens(previous[i], text, _min_shared(size))
        for i, text in enumerate(texts)
    )


class Graphs:
    """One captured forward for each of the `sizes`. Two threads must not call it at the same time.

    Attributes:
        sizes: those of `SIZES` that have a graph.
    """

    def __init__(self, run: Callable[[PackedBatch], torch.Tensor], device: torch.device) -> None:
        """Capture `run` on a CUDA device, the largest size first, whose memory the others reuse."""
        self._captured = {}
        self.sizes = [
            size for size in SIZES if size <= ALWAYS_CAPTURED or _host_is_slower(run, size, device)
        ]
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self.sizes):
            batch = padded([], size).to(device)
            run(batch)  # one-time work cannot be captured
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):  # on a stream of its own
                self._captured[size] = graph, batch, run(batch)

    def __call__(self, texts: Sequence[TokenIds]) -> torch.Tensor | None:
        """The vectors of `texts`, valid until the next call; None if no graph is large enough."""
        size = size_for(texts, self.sizes)
        if size is None:
            return None
        graph, batch, vectors = self._captured[size]
        tensors, new_tensors = _variable_tensors(batch), _variable_tensors(padded(texts, size))
        for tensor, new_tensor in zip(tensors, new_tensors, strict=True):
            tensor.copy_(new_tensor)
        graph.replay()
        return vectors[: len(texts)]


def _host_is_slower(
    run: Callable[[PackedBatch], torch.Tensor], size: int, device: torch.device
) -> bool:
    """Whether a card has almost computed a batch when the host has launched its last kernel."""
    batch = padded([], size).to(device)
    try:
        for _ in range(2):  # the first run does one-time work
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            run(batch)
            launched = time.perf_counter()
            torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return False
    return launched - started > 0.9 * (time.perf_counter() - started)


def _variable_tensors(batch: PackedBatch) -> list[torch.Tensor]:
    """The tensors in which two batches of one size differ."""
    starts = batch.spans.cu_seqlens_q, batch.spans.cu_seqlens_k, batch.last_spans.cu_seqlens_k
    keys = [] if batch.key_index is None else [batch.key_index]
    return [batch.input_ids, batch.position_ids, batch.last_index, *starts, *keys]
