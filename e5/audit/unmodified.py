"""The unmodified model: transformers' `MistralModel`, for what the packed forward cannot do.

It gives the hidden states of every token, before and after the final norm, under the masks of
other engines. It knows token ids, no texts and no hypotheses.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from e5.lora import LoraAdapter
from e5.packing import TokenIds


def load_unmodified(folder: Path, adapter: LoraAdapter | None) -> Any:
    """Load a checkpoint as transformers does, in float32 on the CPU, and merge an adapter."""
    from transformers import MistralModel  # late: the import takes seconds

    model = MistralModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if adapter is not None:
        for name, parameter in model.named_parameters():
            parameter.data = adapter.merge(name, parameter.data)
    return model.eval()


class HiddenStates:
    """Hidden states of one text at a time.

    Attributes:
        model: transformers' `MistralModel` in float32.
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
        mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
        hidden = self.model(
            input_ids=torch.tensor([[*ids, *padding]], device=device),
            attention_mask=mask[None, None].to(device),
            use_cache=False,
        ).last_hidden_state[0]
        return hidden.float().cpu(), self._before_norm[0].float().cpu()
