"""The engine: token ids of any number of texts -> vectors."""

import logging
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from tqdm import tqdm

from e5.attention import uses_varlen
from e5.errors import OutOfMemoryError, SettingsError, shortened
from e5.forward import forward
from e5.graphs import Graphs
from e5.layers import StreamedLayers
from e5.mistral import Mistral
from e5.packing import MIN_SHARED, PackedBatch, divide_into_batches, pack
from e5.tokenizer import TokenIds
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 2048  # more do not fit the caches: 4 % slower at the 7B model's shapes
# Arithmetic, and no longer the reading of the weights, limits matrix products of this many rows. So
# larger batches gain nothing on a card, and requests that arrive during a forward wait longer:
# 0.4 s for so many tokens on an A40, by its data sheet.
MAX_CUDA_BATCH_TOKENS = 4096
FIRST_PROBE_TOKENS = 256  # of the first forward that measures memory; the next ones are longer
# A forward that takes less than this many times as long as copying its streamed layers may be one
# that waits for the copying.
COPY_WAIT_RATIO = 1.1


class Engine:
    """Divides texts into batches, runs their forwards and restores the order.

    Attributes:
        model: in evaluation mode, on its device.
        hidden_size: dimensions of a vector.
        max_batch_tokens: maximum tokens computed in one forward.
        compiled: whether forwards use torch.compile.
        quantised: whether weights are stored in fewer bits than they are multiplied in.
        launches_ahead: whether a card still computes a batch when the host has launched all of it.
        launched: is called after each batch is launched, before the wait for its vectors.

    Another engine is a subclass that replaces `_divide` and `_vectors`.

    Example, with the 7B model:
        >>> Engine(model).compute([(1, 415, 2)]).shape
        (1, 4096)
    """

    quantised = False
    launches_ahead = False
    launched: Callable[[], object] = staticmethod(lambda: None)

    def __init__(
        self,
        model: Mistral,
        *,
        max_batch_tokens: int | None = None,
        compiled: bool = False,
        graphs: bool = True,
    ) -> None:
        """Prepare forwards of a model; see the class's attributes.

        If `max_batch_tokens` is None, it is chosen for the device. Without `graphs`, small batches
        use no CUDA graphs, which is for comparisons.

        Raises:
            SettingsError: torch cannot compile on this machine.
        """
        self.model, self.hidden_size, self.compiled = model, model.config.hidden_size, compiled
        if compiled:
            try_to_compile(lambda texts: self._run(pack(texts).to(model.device)))
        streamed = model.layers if isinstance(model.layers, StreamedLayers) else None
        on_a_card = uses_varlen(model.device, model.embed_tokens.weight.dtype)
        # Where layers are streamed, launches wait for their copies.
        self.launches_ahead = model.device.type == "cuda" and streamed is None
        graphs = graphs and on_a_card and streamed is None
        self._graphs = Graphs(self._run, model.device) if graphs else None
        self.max_batch_tokens = max_batch_tokens or self._measure_batch_tokens(
            model.device, copy_seconds=0.0 if streamed is None else streamed.copy_seconds
        )
        if streamed is not None:
            self._log_costs(streamed)

    def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
        """The vector of each text's token ids, float32 `[num_texts, hidden_size]`, in input order.

        Identical texts are computed once, neighbours in sorted order share their prefixes, and
        batches are filled up to `max_batch_tokens`. Some vectors may hold NaN or infinity: the
        caller must check. Without `share_prefixes` a NaN in one text cannot reach another.

        Raises:
            OutOfMemoryError: for a text that does not fit in memory even alone.
        """
        batches = list(self._divide(set(sequences), share_prefixes))
        row_numbers = {ids: i for i, ids in enumerate(chain.from_iterable(batches))}
        vectors = np.empty((len(row_numbers), self.hidden_size), np.float32)
        done = 0
        with tqdm(row_numbers, "forward", unit="text", delay=2, leave=False, disable=None) as bar:
            for rows in (rows for each in batches for rows in self._forward(each, share_prefixes)):
                vectors[done : done + len(rows)] = rows
                done += len(rows)
                bar.update(len(rows))
        return vectors[[row_numbers[ids] for ids in sequences]]

    def _divide(
        self, texts: Collection[TokenIds], share_prefixes: bool
    ) -> Iterable[Sequence[TokenIds]]:
        """Divide distinct texts into the batches of one forward each."""
        return divide_into_batches(
            sorted(texts),
            max_batch_tokens=self.max_batch_tokens,
            min_shared=_min_shared(share_prefixes),
        )

    def _vectors(self, texts: Sequence[TokenIds], share_prefixes: bool) -> torch.Tensor:
        """The vectors of one batch, in order."""
        # Graphs may share prefixes, so they are not used for texts that must not.
        graphs = self._graphs if share_prefixes else None
        rows = None if graphs is None else graphs(texts)
        if rows is None:
            batch = pack(texts, min_shared=_min_shared(share_prefixes))
            rows = self._run(batch.to(self.model.device))
        return rows

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        return forward(self.model, batch, compiled=self.compiled)

    def _forward(self, texts: Sequence[TokenIds], share_prefixes: bool = True) -> Iterator[Vectors]:
        """Vectors of `texts`, in order; in halves if the card's memory does not hold them all."""
        try:
            rows = self._vectors(texts, share_prefixes)
            self.launched()
            vectors: Vectors = rows.cpu().numpy()
        except torch.OutOfMemoryError:
            pass  # handled below, after the failed forward's tensors are released
        else:
            yield vectors
            return
        torch.cuda.empty_cache()
        if len(texts) == 1:
            raise OutOfMemoryError(len(texts[0]))
        logger.warning("out of the card's memory with %d texts: halving the batch", len(texts))
        half = len(texts) // 2
        yield from self._forward(texts[:half], share_prefixes)
        yield from self._forward(texts[half:], share_prefixes)

    def _measure_batch_tokens(self, *devices: torch.device, copy_seconds: float = 0.0) -> int:
        """The tokens whose activations fill half of the free memory, measured by forwards.

        Each forward has twice the tokens of the one before it, as long as the memory holds that: so
        a card that is almost full is measured too. Memory that does not depend on the number of
        tokens (a layer that is copied to the card) is subtracted first. Of several cards the
        fullest counts. The result exceeds `MAX_CUDA_BATCH_TOKENS` only where streamed layers, which
        are copied in `copy_seconds`, need a longer forward to be copied in its time.
        """
        if any(device.type != "cuda" for device in devices):
            return CPU_BATCH_TOKENS
        tokens, budget, needed = FIRST_PROBE_TOKENS, 0, [0] * len(devices)
        self._costs_of_forward(tokens, devices)  # what only the first forward allocates
        while True:
            shorter = needed
            try:
                needed, seconds = self._costs_of_forward(tokens, devices)
            except OutOfMemoryError:  # memory that grows faster than the text
                if budget == 0:
                    raise
                return budget
            free = [_free_bytes(device) for device in devices]
            budgets = []
            for room, need, less in zip(free, needed, shorter, strict=True):
                less = less if less < need else 0
                a_token = max(1, need - less) / (tokens // 2 if less else tokens)
                fixed = max(0, need - a_token * tokens)
                budgets.append((room - fixed) / 2 / a_token)
            # A quarter more than a forward in whose time all streamed layers are copied.
            most = max(MAX_CUDA_BATCH_TOKENS, 1.25 * tokens * copy_seconds / seconds)
            budget = max(1, int(min(most, *budgets)))
            fits = all(2 * need <= room for need, room in zip(needed, free, strict=True))
            waits = seconds < COPY_WAIT_RATIO * copy_seconds
            if (tokens >= MAX_CUDA_BATCH_TOKENS and not waits) or not fits:
                return budget
            tokens *= 2

    def _seconds(self, texts: Sequence[TokenIds]) -> float:
        """The time of a forward of some texts."""
        started = time.perf_counter()
        for _ in self._forward(texts):  # each part is complete when it comes
            pass
        return time.perf_counter() - started

    def _log_costs(self, layers: StreamedLayers) -> None:
        """Log which layers are streamed, and the time that forwards take."""
        length = min(512, self.max_batch_tokens)
        full = [(3 + i, *[3] * (length - 1)) for i in range(self.max_batch_tokens // length)]
        query, all_texts = (
            min(self._seconds(texts) for _ in range(2)) for texts in ([full[0][:32]], full)
        )
        logger.info(
            "%d of %d layers stay on %s, the others are copied to it for each forward (%.1f GB in "
            "%.2f s): a lone query takes %.2f s, and %d tokens %.2f s",
            *(len(layers) - len(layers.streamed), len(layers), self.model.device),
            *(layers.nbytes / 1e9, layers.copy_seconds, query, length * len(full), all_texts),
        )

    def _costs_of_forward(
        self, tokens: int, devices: Sequence[torch.device]
    ) -> tuple[list[int], float]:
        """The bytes that the forward of one text takes of each card, and its seconds."""
        before = [torch.cuda.memory_allocated(device) for device in devices]
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        seconds = self._seconds([(3,) * tokens])
        peaks = [torch.cuda.max_memory_allocated(device) for device in devices]
        torch.cuda.empty_cache()
        return [peak - used for peak, used in zip(peaks, before, strict=True)], seconds


def _min_shared(share_prefixes: bool) -> int:
    return MIN_SHARED if share_prefixes else sys.maxsize


def _free_bytes(device: torch.device) -> float:
    """The free memory of a card, within the fraction of it that torch may use."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    return min(free, allowed - torch.cuda.memory_reserved(device))


def try_to_compile(run: Callable[[Sequence[TokenIds]], object]) -> None:
    """Run a compiled forward, so that errors appear at the start and no caller waits for them.

    torch compiles when `run` is called for the first time.

    Raises:
        SettingsError: torch cannot compile on this machine.
    """
    started = time.perf_counter()
    try:
        run([(1, 2), (1, 3, 2)])
    except Exception as error:  # a compiler can raise anything
        logger.warning("torch.compile failed", exc_info=True)
        received = f"1, and torch cannot compile here ({shortened(str(error), 200)})"
        remedy = "install a C and a C++ compiler, or unset E5_COMPILE"
        raise SettingsError("E5_COMPILE", received, remedy) from error
    logger.info("compiled the forward in %.1f s", time.perf_counter() - started)
