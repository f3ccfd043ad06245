"""Which layers of a model stay on a card, by its memory. The others are streamed (`layers`)."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from e5.errors import SettingsError
from e5.graphs import SIZES
from e5.layers import BUFFERS
from e5.machine import available_host_bytes
from e5.mistral import Config, Mistral

# The most that a forward needs, as a multiple of the estimate of its activations: of a single text,
# and of texts that share prefixes.
SINGLE_TEXT_FACTOR, SHARED_PREFIX_FACTOR = 1.1, 1.5
CUDA_BYTES = 2**28  # what CUDA takes of a card when kernels run for the first time


@dataclass(frozen=True)
class MemoryNeeds:
    """The bytes of a card that a model needs.

    Attributes:
        num_layers: the model's layers.
        layer: the weights of one layer.
        whole: all weights, CUDA graphs, and a forward of the longest text.
        least: a forward as large as streaming needs it to pay, the buffers of streamed layers, and
            the weights that are in no layer.
    """

    num_layers: int
    layer: int
    whole: float
    least: float

    @classmethod
    def of(
        cls, config: Config, dtype: torch.dtype, *, max_length: int, batch_tokens: int
    ) -> "MemoryNeeds":
        """Estimate the needs of a model.

        Args:
            config: its sizes.
            dtype: of its matrices.
            max_length: tokens of the longest text.
            batch_tokens: tokens of a large forward.
        """
        layer = rest = 0
        one_layer = Mistral(config.model_copy(update={"num_hidden_layers": 1}))
        for name, weight in one_layer.named_parameters():
            size = weight.numel() * (dtype if weight.ndim > 1 else torch.float32).itemsize
            layer, rest = (layer + size, rest) if "layers." in name else (layer, rest + size)
        # Two residual streams in float32; two inputs and two halves of the MLP in the dtype.
        sizes = config.hidden_size + config.intermediate_size
        token = 8 * config.hidden_size + 2 * dtype.itemsize * sizes
        tokens = max_length + max(SIZES)  # graphs keep the memory of the largest one
        whole = rest + config.num_hidden_layers * layer + SINGLE_TEXT_FACTOR * token * tokens
        longest = max(max_length, batch_tokens)
        least = rest + BUFFERS * layer + SHARED_PREFIX_FACTOR * token * longest
        return cls(config.num_hidden_layers, layer, whole, least)

    def layers_that_stay(self, free: float) -> int:
        """How many layers stay on a card with `free` bytes; below 0 if it cannot even stream all.

        Example, for cards of 12 and 16 GB, of which CUDA itself takes 0.65 GiB:
            >>> needs = MemoryNeeds.of(Config(), torch.float16, max_length=4096, batch_tokens=4096)
            >>> [needs.layers_that_stay((gib - 0.65) * 2**30) for gib in (11.5, 15.6)]
            [22, 32]
        """
        if self.whole <= free:
            return self.num_layers
        # The buffers take the room of two layers: streaming two or fewer would save none.
        most = max(0, self.num_layers - BUFFERS - 1)
        return min(most, int((free - self.least) // self.layer))


def spread(count: int, num_layers: int) -> list[int]:
    """The numbers of `count` layers, as evenly among all as possible.

    Example:
        >>> spread(3, 6), spread(10, 32)
        ([1, 3, 5], [2, 5, 8, 11, 15, 18, 21, 24, 27, 31])
    """
    return [(i + 1) * num_layers // count - 1 for i in range(count)]


def choose_streamed_layers(
    needs: MemoryNeeds, device: torch.device, card_gb: float | None
) -> Sequence[int]:
    """The numbers of the layers that have no room on a device; none on a CPU.

    If `card_gb` is given, this process takes no more of the card from now on.

    Raises:
        SettingsError: the card or the host has too little memory, or `card_gb` is set for a CPU.
    """
    if device.type != "cuda":
        if card_gb is not None:
            received = f"{card_gb:g}, and the model runs on the CPU"
            raise SettingsError("E5_CARD_GB", received, "unset E5_CARD_GB")
        return []
    card = torch.device("cuda", device.index or 0)  # torch limits no card without a number
    gc.collect()
    torch.cuda.empty_cache()  # of a model that this process had before
    unused, total = torch.cuda.mem_get_info(card)
    fraction = torch.cuda.get_per_process_memory_fraction(card)
    if card_gb is not None:
        fraction = min(1.0, card_gb * 1e9 / total)
    free = min(unused - CUDA_BYTES, fraction * total - torch.cuda.memory_reserved(card))
    received = "no value" if card_gb is None else f"{card_gb:g}"
    stay = needs.layers_that_stay(free)
    if stay < 0:
        needed, left = needs.least / 1e9, free / 1e9
        received += f", and of the {needed:.1f} GB of a card that are needed {left:.1f} are left"
        remedy = "free or allow more, or lower E5_MAX_BATCH_TOKENS and E5_MAX_LENGTH"
        raise SettingsError("E5_CARD_GB", received, remedy)
    streamed = spread(needs.num_layers - stay, needs.num_layers)
    needed, left = (len(streamed) + 1) * needs.layer / 1e9, available_host_bytes() / 1e9
    if streamed and needed > left:  # one more layer, which is being moved
        received += f", and of the {needed:.1f} GB of host memory that {len(streamed)} layers"
        received += f" without room on the card need {left:.1f} are left"
        remedy = "allow more of the card, or give the host or the container more memory"
        raise SettingsError("E5_CARD_GB", received, remedy)
    if card_gb is not None:
        torch.cuda.set_per_process_memory_fraction(fraction, card)
    return streamed
