"""Hidden states of the unmodified model, for what the packed forward cannot compute.

It gives those of every token, before and after the final norm, under the masks of other libraries.
It knows token ids, no texts and no hypotheses.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from e5.checkpoint import CONFIG, Checkpoint
from e5.device import choose_device, choose_dtype
from e5.lora import LoraAdapter
from e5.mistral import Config
from e5.packing import TokenIds
from e5.quantization import QUANTISED_BY
from e5.reference import load_reference
from e5.settings import Settings


def load_unmodified(settings: Settings) -> Any:
    """Load transformers' `MistralModel` of the settings' checkpoint, with their adapter merged."""
    folder = Path(settings.weights)
    device = choose_device(settings.device, min_capability=(0, 0))
    return load_reference(
        Checkpoint.find(folder),
        Config.read(folder / CONFIG, quantised_by=QUANTISED_BY),
        settings,
        device=device,
        dtype=choose_dtype(settings.dtype, device),
        adapter=None if settings.adapter is None else LoraAdapter.read(Path(settings.adapter)),
    ).model


class HiddenStates:
    """Hidden states of one text at a time.

    Attributes:
        model: transformers' `MistralModel`.
    """

    def __init__(self, model: Any) -> None:
        """Observe the model's final norm."""
        self.model = model
        self._before_norm = torch.empty(0)
        model.norm.register_forward_pre_hook(self._observe)

    def _observe(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self._before_norm = inputs[0]

    @lru_cache(maxsize=4)  # neighbours in a list are often the same text  # noqa: B019
    @torch.inference_mode()
    def of(
        self, ids: TokenIds, *, bidirectional: bool = False, padding: TokenIds = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states after and before the final norm, both float32 `[num_tokens, hidden_size]`.

        Args:
            ids: the text's token ids.
            bidirectional: let every token attend to every other.
            padding: ids of padding after the text. It attends to the text and not to itself, as
                under an attention mask.
        """
        count, total = len(ids), len(ids) + len(padding)
        allowed = torch.ones(total, total, dtype=torch.bool)
        if not bidirectional:
            allowed = allowed.tril()
        allowed[:, count:] = False
        device = self.model.device
        hidden = self.model(
            input_ids=torch.tensor([[*ids, *padding]], device=device),
            attention_mask=allowed[None, None].to(device),
            use_cache=False,
        ).last_hidden_state[0]
        return hidden.float().cpu(), self._before_norm[0].float().cpu()
