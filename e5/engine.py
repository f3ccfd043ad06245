"""The engine: token ids of any number of texts -> vectors, through packing and model.

Knows batches, order and memory. Knows nothing of texts, prompts, files or requests.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import MistralModel

from e5.errors import OutOfMemoryError
from e5.model import forward
from e5.packing import TokenIds, fill, pack
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 2048  # larger leaves the caches: 4 % slower at the 7B model's shapes
# Of a GPU. Products of so many rows are bound by arithmetic, not by reading the weights; beyond,
# whoever comes during a forward would wait longer (this one takes an A40 0.4 s) for nothing.
MAX_CUDA_BATCH_TOKENS = 4096
PROBE_TOKENS = 4096  # of the forward that measures memory


class Engine:
    """A model on its device, and the token budget of its forwards.

    Attributes:
        hidden_size: dimensions of a vector.
        max_batch_tokens: tokens computed in one forward.

    Example, with the 7B model:
        >>> Engine(model).compute([(1, 415, 2)]).shape
        (1, 4096)
    """

    def __init__(self, model: MistralModel, *, max_batch_tokens: int | None = None) -> None:
        """Take a model in evaluation mode; a budget of None is measured."""
        self.model = model
        self.hidden_size = int(model.config.hidden_size)
        self.max_batch_tokens = max_batch_tokens or self._measure_batch_tokens()

    def compute(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """The vector of each text's token ids: the one path for one text and for ten thousand.

        Identical texts are computed once, neighbours in sorted order share their prefixes, batches
        are filled by `max_batch_tokens`.

        Returns:
            float32 `[num_texts, hidden_size]`, in input order. Some may hold NaN or infinity: the
            caller must look.

        Raises:
            OutOfMemoryError: for a text that does not fit in memory even alone.
        """
        distinct = sorted(set(token_ids))
        place = {ids: i for i, ids in enumerate(distinct)}
        vectors = np.empty((len(distinct), self.hidden_size), np.float32)
        done = 0
        with tqdm(
            total=len(distinct), desc="forward", unit="text", delay=2, leave=False, disable=None
        ) as bar:
            for batch in fill(distinct, max_batch_tokens=self.max_batch_tokens):
                for rows in self._forward(batch):
                    vectors[done : done + len(rows)] = rows
                    done += len(rows)
                    bar.update(len(rows))
        return vectors[[place[ids] for ids in token_ids]]

    def _forward(self, texts: Sequence[TokenIds]) -> Iterator[Vectors]:
        """Vectors of `texts`, in order; in halves where the GPU's memory does not hold them."""
        try:
            batch = pack(texts).to(self.model.device)
            vectors: Vectors = forward(self.model, batch).cpu().numpy()
        except torch.OutOfMemoryError:
            pass  # handled below, where the failed forward's tensors are no longer held
        else:
            yield vectors
            return
        torch.cuda.empty_cache()
        if len(texts) == 1:
            raise OutOfMemoryError(len(texts[0]))
        logger.warning("out of GPU memory with %d texts: going on in two halves", len(texts))
        half = len(texts) // 2
        yield from self._forward(texts[:half])
        yield from self._forward(texts[half:])

    def _measure_batch_tokens(self) -> int:
        """Tokens whose activations fill half of a GPU's free memory, measured by one forward."""
        device = self.model.device
        if device.type != "cuda":
            return CPU_BATCH_TOKENS
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for _ in self._forward([(3,) * PROBE_TOKENS]):
            per_token = (torch.cuda.max_memory_allocated(device) - before) / PROBE_TOKENS
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, min(MAX_CUDA_BATCH_TOKENS, int(free / 2 / per_token)))
