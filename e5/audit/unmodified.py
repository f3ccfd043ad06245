"""Hidden states of the unmodified model, for what the packed forward cannot compute.

It gives those of every token, before and after the final norm, under the masks of other libraries.
It knows token ids, no texts and no hypotheses.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from e5.checkpoint import CONFIG, Checkpoint
from e5.device import choose_device, choose_dtype
from e5.lora import LoraAdapter
from e5.mistral import Config
from e5.quantization import QUANTISED_BY
from e5.reference import load_reference
from e5.settings import Settings
from e5.tokenizer import TokenIds


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


class MaskedText(NamedTuple):
    """Token ids, and which of them others attend to.

    Attributes:
        ids: of the text, and of padding behind it.
        num_visible: the number of leading ids that others attend to.
        bidirectional: whether each token attends to those behind it too.
    """

    ids: TokenIds
    num_visible: int
    bidirectional: bool = False


class HiddenStates:
    """Hidden states of all tokens.

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

    @torch.inference_mode()
    def of(self, texts: Sequence[MaskedText]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each text's states after and before the final norm, in one forward.

        Both are float32 `[num_tokens, hidden_size]`.
        """
        longest = max(len(text.ids) for text in texts)
        allowed = torch.zeros(len(texts), 1, longest, longest, dtype=torch.bool)
        for text, mask in zip(texts, allowed, strict=True):
            mask[:, :, : text.num_visible] = True
            if not text.bidirectional:
                mask.copy_(mask.tril())
        # What fills up a batch is seen by no text.
        ids = torch.tensor([text.ids + text.ids[-1:] * (longest - len(text.ids)) for text in texts])
        hidden = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=allowed.to(self.model.device),
            use_cache=False,
        ).last_hidden_state
        both = hidden.float().cpu(), self._before_norm.float().cpu()
        return [
            (both[0][i, : len(text.ids)], both[1][i, : len(text.ids)])
            for i, text in enumerate(texts)
        ]
