"""Slow, readable versions that the fast code must equal.

`Reference` is transformers' own `MistralModel`, unmodified, padded, in float32. `dense_attention`
is attention as a table of all rows and all keys with a mask over it, in float64.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from e5.packing import Spans
from e5.tokenizer import TokenIds
from e5.vectors import Vectors


class Reference:
    """A checkpoint's `MistralModel`: a padded batch in, the last token's hidden state out."""

    def __init__(self, folder: Path) -> None:
        """Load `folder` as transformers does."""
        from transformers import MistralModel  # late: the import takes seconds

        self.model = MistralModel.from_pretrained(  # in evaluation mode
            folder, dtype=torch.float32, attn_implementation="eager"
        )

    @torch.inference_mode()
    def __call__(self, texts: Sequence[TokenIds]) -> Vectors:
        """float32 `[num_texts, hidden_size]`; the last token is found by length, not by its id."""
        lengths = [len(text) for text in texts]
        input_ids = torch.zeros(len(texts), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, text in enumerate(texts):  # padded on the right
            input_ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        hidden = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        rows = [hidden[row, length - 1] for row, length in enumerate(lengths)]
        vectors: Vectors = torch.stack(rows).numpy()
        return vectors


def dense_attention(
    query: torch.Tensor,  # [sum of query_lengths, num_heads, head_dim]
    key: torch.Tensor,  # [total_tokens, num_key_value_heads, head_dim]
    value: torch.Tensor,  # as key
    spans: Spans,
    key_index: torch.Tensor | None,
    *,
    causal: bool = True,
) -> torch.Tensor:
    """Softmax of all scores at once, the forbidden ones set to -inf beforehand."""
    if key_index is None:
        key_index = torch.arange(sum(spans.key_lengths))
    group = query.shape[1] // key.shape[1]  # query heads h*group ... share key head h
    key = key[key_index].double().repeat_interleave(group, dim=1)
    value = value[key_index].double().repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) / query.shape[-1] ** 0.5
    row_text: list[int] = []
    row_position: list[int] = []
    key_text: list[int] = []
    key_position: list[int] = []
    for text, (rows, keys) in enumerate(zip(spans.query_lengths, spans.key_lengths, strict=True)):
        row_text += [text] * rows
        row_position += range(keys - rows, keys)  # a text's rows are the last of its tokens
        key_text += [text] * keys
        key_position += range(keys)
    allowed = torch.tensor(row_text)[:, None] == torch.tensor(key_text)
    if causal:
        allowed &= torch.tensor(row_position)[:, None] >= torch.tensor(key_position)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value).to(query.dtype)


def assert_same(ours: Vectors, truth: Vectors) -> None:
    """To 1e-4 of each vector's own largest element."""
    assert ours.shape == truth.shape
    assert ours.dtype == np.float32
    scale = np.abs(truth).max(axis=-1, keepdims=True)
    assert (np.abs(ours - truth) <= 1e-4 * scale).all()
