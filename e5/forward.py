"""The Mistral forward over a packed batch: one vector per text, from its last token.

The arithmetic is that of `transformers.models.mistral.modeling_mistral`, arranged for a flat token
axis.

It saves work in two exact ways: keys and values of a shared prefix are computed once (`packing`),
and the final layer computes queries, output projection and MLP only for each text's last token. The
residual stream is float32, so that float16 cannot overflow and bfloat16 does not lose precision;
matrix products run in the weights' dtype.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import nn

from e5.attention import attention
from e5.mistral import Layer, Mistral
from e5.packing import PackedBatch


@torch.inference_mode()
def forward(
    model: Mistral, batch: PackedBatch, *, compiled: bool = False, num_layers: int | None = None
) -> torch.Tensor:
    """The hidden state of each text's last token after the last norm. It is not L2-normalised.

    Args:
        model: weights in one floating dtype, on the device of `batch`.
        batch: at least one text.
        compiled: let torch.compile fuse the operations between the matrix products, in all layers
            but the last.
        num_layers: how many of the first layers are computed; None: all.

    Returns:
        float32 `[num_texts, hidden_size]`, in the order in which the texts were packed.
    """
    hidden = model.embed_tokens(batch.input_ids).float()  # [total_tokens, hidden_size]
    angles = batch.position_ids[:, None] * model.inv_freq  # float32 [total_tokens, head_dim / 2]
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    # In the weights' dtype, as in transformers: as accurate as float32, and 4 times as fast.
    rotary = torch.stack((angles.cos(), angles.sin())).to(model.embed_tokens.weight.dtype)
    before, after = _compiled() if compiled else (_before_attention, _after_attention)
    last = (num_layers or len(model.layers)) - 1
    for number, layer in enumerate(cast("Iterable[Layer]", model.layers)):
        if number < last:
            query, key, value = before(layer, hidden, rotary)
            output = attention(query, key, value, batch.spans, batch.key_index)
            hidden = after(layer, hidden, output)
        elif number == last:
            rows = batch.last_index
            query, key, value = _before_attention(layer, hidden, rotary, rows)
            output = attention(query, key, value, batch.last_spans, batch.key_index)
            hidden = _after_attention(layer, hidden[rows], output)
        else:  # only now: streamed layers note that a layer was computed when the next is asked for
            break
    return _rms_norm(hidden, model.norm)


# Queries `[rows, num_heads, head_dim]`; keys and values `[total_tokens, num_key_value_heads,
# head_dim]`.
Heads: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _before_attention(
    layer: Layer,
    hidden: torch.Tensor,  # float32 [total_tokens, hidden_size]
    rotary: torch.Tensor,  # cos and sin, [2, total_tokens, 1, head_dim]
    rows: torch.Tensor | None = None,
) -> Heads:
    """Keys and values of every token, and the queries of all or of some rows."""
    attn = layer.self_attn
    x = _rms_norm(hidden, layer.input_layernorm).to(attn.q_proj.weight.dtype)
    query_x, query_rotary = (x, rotary) if rows is None else (x[rows], rotary[:, rows])
    return (
        _rotate(_heads(attn.q_proj(query_x), attn.head_dim), query_rotary),
        _rotate(_heads(attn.k_proj(x), attn.head_dim), rotary),
        _heads(attn.v_proj(x), attn.head_dim),
    )


def _after_attention(
    layer: Layer,
    hidden: torch.Tensor,  # float32 [rows, hidden_size]
    output: torch.Tensor,  # attention's, [rows, num_heads, head_dim]
) -> torch.Tensor:
    """The layer's result: both residual sums, with the MLP between them."""
    mlp = layer.mlp
    hidden = hidden + layer.self_attn.o_proj(output.flatten(-2))
    x = _rms_norm(hidden, layer.post_attention_layernorm).to(output.dtype)
    # SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))
    gate = F.silu(mlp.gate_proj(x))
    return hidden.add_(mlp.down_proj(gate.mul_(mlp.up_proj(x))))


@cache
def _compiled() -> tuple[Callable[..., Heads], Callable[..., torch.Tensor]]:
    """Both halves of a layer, each compiled once for all layers and any number of tokens."""
    return (
        torch.compile(_before_attention, dynamic=True, fullgraph=True),
        torch.compile(_after_attention, dynamic=True, fullgraph=True),
    )


def _heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    return x.view(len(x), -1, head_dim)


def _rms_norm(hidden: torch.Tensor, norm: nn.RMSNorm) -> torch.Tensor:
    """RMSNorm (Zhang & Sennrich 2019), in float32."""
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight.float(), norm.eps)


def _rotate(x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021) in Hugging Face's half-split layout."""
    cos, sin = rotary[0], rotary[1]
    first, second = x.chunk(2, dim=-1)  # of [rows, heads, head_dim]
    return x * cos + torch.cat((-second, first), dim=-1) * sin
