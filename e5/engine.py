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
from e5.mistral import Mistral
from e5.packing import MIN_SHARED, PackedBatch, TokenIds, divide_into_batches, pack
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 2048  # more do not fit the caches: 4 % slower at the 7B model's shapes
# Matrix products of this many rows are limited by arithmetic, no longer by reading the weights. So
# larger batches gain nothing on a GPU, and make requests that arrive during a forward wait longer
# (an A40 needs 0.4 s for this many tokens, by its data sheet).
MAX_CUDA_BATCH_TOKENS = 4096
FIRST_PROBE_TOKENS = 256  # length of the first forward that measures memory; the next are longer


class Engine:
    """Divides texts into batches, runs their forwards and restores the order.

    Attributes:
        model: in evaluation mode, on its device.
        hidden_size: dimensions of a vector.
        max_batch_tokens: maximum tokens computed in one forward.
        compiled: whether forwards use torch.compile.
        quantised: whether weights are stored in fewer bits than they are multiplied in.

    Another engine is a subclass that replaces `_divide` and `_vectors`.

    Example, with the 7B model:
        >>> Engine(model).compute([(1, 415, 2)]).shape
        (1, 4096)
    """

    quantised = False

    def __init__(
        self,
        model: Mistral,
        *,
        max_batch_tokens: int | None = None,
        compiled: bool = False,
        graphs: bool = True,
    ) -> None:
        """Prepare forwards of a model; see the class's attributes.

        `max_batch_tokens` of None chooses it for the device. `graphs` of False uses no CUDA graphs
        for small batches, which is for comparisons.

        Raises:
            SettingsError: torch cannot compile on this machine.
        """
        self.model, self.hidden_size, self.compiled = model, model.config.hidden_size, compiled
        if compiled:
            try_to_compile(lambda texts: self._run(pack(texts).to(model.device)))
        on_a_card = uses_varlen(model.device, model.embed_tokens.weight.dtype)
        self._graphs = Graphs(self._run, model.device) if on_a_card and graphs else None
        self.max_batch_tokens = max_batch_tokens or self._measure_batch_tokens(model.device)

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
        rows = None if self._graphs is None else self._graphs(texts)
        if rows is None:
            batch = pack(texts, min_shared=_min_shared(share_prefixes))
            rows = self._run(batch.to(self.model.device))
        return rows

    def _run(self, batch: PackedBatch) -> torch.Tensor:
        return forward(self.model, batch, compiled=self.compiled)

    def _forward(self, texts: Sequence[TokenIds], share_prefixes: bool = True) -> Iterator[Vectors]:
        """Vectors of `texts`, in order; in halves if the GPU's memory does not hold them all."""
        try:
            vectors: Vectors = self._vectors(texts, share_prefixes).cpu().numpy()
        except torch.OutOfMemoryError:
            pass  # handled below, after the failed forward's tensors are released
        else:
            yield vectors
            return
        torch.cuda.empty_cache()
        if len(texts) == 1:
            raise OutOfMemoryError(len(texts[0]))
        logger.warning("out of GPU memory with %d texts: halving the batch", len(texts))
        half = len(texts) // 2
        yield from self._forward(texts[:half], share_prefixes)
        yield from self._forward(texts[half:], share_prefixes)

    def _measure_batch_tokens(self, *devices: torch.device) -> int:
        """The tokens whose activations fill half of the free memory, measured by forwards.

        Of several cards the one with the least room counts. Each forward has twice the tokens of
        the one before it, as long as the memory holds that: so a card that is almost full is
        measured too.
        """
        if any(device.type != "cuda" for device in devices):
            return CPU_BATCH_TOKENS
        tokens = FIRST_PROBE_TOKENS
        while True:
            before = [torch.cuda.memory_allocated(device) for device in devices]
            for device in devices:
                torch.cuda.reset_peak_memory_stats(device)
            for _ in self._forward([(3,) * tokens]):
                peaks = [torch.cuda.max_memory_allocated(device) for device in devices]
            torch.cuda.empty_cache()
            room = min(
                _free_bytes(device) / 2 / max(1, peak - used)  # in forwards of so many tokens
                for device, peak, used in zip(devices, peaks, before, strict=True)
            )
            if tokens >= MAX_CUDA_BATCH_TOKENS or room < 2:
                return max(1, min(MAX_CUDA_BATCH_TOKENS, int(tokens * room)))
            tokens *= 2


def _min_shared(share_prefixes: bool) -> int:
    return MIN_SHARED if share_prefixes else sys.maxsize


def _free_bytes(device: torch.device) -> float:
    """The free memory of a card, within the fraction of it that torch may use."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    return min(free, allowed - torch.cuda.memory_reserved(device))


def try_to_compile(run: Callable[[Sequence[TokenIds]], object]) -> None:
    """Compile now, so that an error appears at the start and no caller waits for the compiler.

    `run` is a compiled forward.

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
