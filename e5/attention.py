"""Causal attention over a packed batch: FlashAttention varlen, or SDPA text by text.

FlashAttention runs in 16 bits on the cards that have it, SDPA everywhere else; their results are
equal up to rounding. The scale is 1/sqrt(head_dim) (Vaswani et al. 2017, eq. 1), both kernels
compute the softmax in float32, and key/value heads are grouped (Ainslie et al. 2023).
"""

import inspect
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.torch_version import TorchVersion

from e5.packing import Spans

FLASH_CAPABILITY = (8, 0)  # the least with FlashAttention and with products in bfloat16


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: Spans,
    key_index: torch.Tensor | None,
) -> torch.Tensor:
    """Attention in which each row sees its own text's keys, up to its own position.

    Args:
        query: `[sum of query_lengths, num_heads, head_dim]`, text after text.
        key: `[total_tokens, num_key_value_heads, head_dim]`, on the flat axis.
        value: the same shape as `key`.
        spans: which rows attend to which keys.
        key_index: flat positions of each text's tokens; None if nothing is shared.

    Returns:
        `[sum of query_lengths, num_heads, head_dim]`, in `query`'s dtype.
    """
    if key_index is not None:
        key, value = key[key_index], value[key_index]
    kernel = varlen if uses_varlen(query.device, query.dtype) else sdpa
    return kernel(query, key, value, spans)


def uses_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether FlashAttention is used: on cards that have it, in the two dtypes of 16 bits."""
    return device.type == "cuda" and dtype != torch.float32 and has_flash_attention(device)


def has_flash_attention(card: torch.device) -> bool:
    """Whether FlashAttention runs on a card."""
    return torch.cuda.get_device_capability(card) >= FLASH_CAPABILITY


def sdpa_groups_heads(device: torch.device) -> bool:
    """Whether SDPA computes grouped heads without a table of all scores.

    On a card its memory-efficient kernel takes only as many heads of keys as of queries.
    """
    return device.type == "cpu"


def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans
) -> torch.Tensor:
    """FlashAttention over all texts at once; arguments as for `attention`, the keys gathered."""
    from torch.nn.attention.varlen import varlen_attn  # useful only in a CUDA build of torch

    starts = spans.cu_seqlens_q, spans.cu_seqlens_k
    longest = spans.max_seqlen_q, spans.max_seqlen_k
    output = varlen_attn(query, key, value, *starts, *longest, **varlen_options())
    assert isinstance(output, torch.Tensor)
    return output


@cache
def varlen_options() -> dict[str, Any]:
    """The options for causal attention with grouped heads, for the installed version of torch.

    In torch 2.11 to 2.13 `window_size=(-1, 0)` means causal, aligned to each text's end. Torch 2.12
    added two options. `enable_gqa` is required since then; 2.11 groups heads by itself.
    `num_splits=1` gives a text the same bits in any batch, but 2.12 accepts it only with a kernel
    that torch does not include, so it is set from 2.13 on.
    """
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"window_size": (-1, 0)}
    known = inspect.signature(varlen_attn).parameters
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    if "num_splits" in known and TorchVersion(torch.__version__) >= "2.13":
        options["num_splits"] = 1
    return options


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans) -> torch.Tensor:
    """SDPA text by text; arguments as for `attention`, the keys gathered."""
    queries = query.split_with_sizes(spans.query_lengths)
    keys, values = (x.split_with_sizes(spans.key_lengths) for x in (key, value))
    return torch.cat([_one_text(*text) for text in zip(queries, keys, values, strict=True)])


def _one_text(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    q_len, num_heads, head_dim = query.shape
    k_len, num_key_value_heads, _ = key.shape
    shared = k_len - q_len  # keys before the first row
    group = num_heads // num_key_value_heads
    key, value = key.transpose(0, 1)[None], value.transpose(0, 1)[None]  # [1, kv_heads, k_len, ...]
    if shared < q_len:
        # SDPA's causal mask aligns the first row with the first key. So padding rows stand in
        # front, and their output is dropped: cheaper than a mask, which is as large as the scores.
        rows = F.pad(query, (0, 0, 0, 0, shared, 0)).transpose(0, 1)[None]
        grouped = sdpa_groups_heads(query.device)
        if not grouped:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        output = F.scaled_dot_product_attention(
            rows, key, value, is_causal=True, enable_gqa=grouped
        )
        return output[0].transpose(0, 1)[shared:]
    # Few rows and many keys: use a mask, and treat the heads of a group as rows of one head, which
    # is faster for short queries.
    rows = query.view(q_len, num_key_value_heads, group, head_dim).permute(1, 2, 0, 3)
    rows = rows.reshape(1, num_key_value_heads, group * q_len, head_dim)
    mask = None
    if q_len > 1:  # a single row is the text's last token and sees every key
        mask = torch.ones(q_len, k_len, dtype=torch.bool, device=query.device)
        mask = mask.tril(shared).repeat(group, 1)  # row i has position shared + i
    output = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask)
    output = output.view(num_key_value_heads, group, q_len, head_dim).permute(2, 0, 1, 3)
    return output.reshape(q_len, num_heads, head_dim)
