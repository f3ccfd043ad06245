"""The Mistral forward over a packed batch: one vector per text, from its last token.

Uses the modules and weights of transformers' own `MistralModel`; the arithmetic is that of
`transformers.models.mistral.modeling_mistral`, arranged for a flat token axis. Knows nothing of
strings, files or requests.

It saves work in two exact ways: keys and values of a shared prefix are computed once (`packing`),
and the final layer computes queries, output projection and MLP only for each text's last token. The
residual stream is float32, so that float16 cannot overflow and bfloat16 does not lose precision;
matrix products run in the weights' dtype.
"""

from typing import cast

import torch
import torch.nn.functional as F
from transformers import MistralModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRMSNorm

from e5.attention import attention
from e5.packing import PackedBatch, Spans


@torch.inference_mode()
def forward(model: MistralModel, batch: PackedBatch) -> torch.Tensor:
    """The normalised hidden state of each text's last token.

    Args:
        model: weights in one floating dtype, on the device of `batch`.
        batch: at least one text.

    Returns:
        `[num_texts, hidden_size]`, float32, in the order the texts were packed.
    """
    hidden = model.embed_tokens(batch.input_ids).float()  # [total_tokens, hidden_size]
    # cos and sin: float32 [1, total_tokens, head_dim]
    cos, sin = model.rotary_emb(hidden, batch.position_ids[None])
    # In the weights' dtype, as in transformers: as accurate as float32, and 4 times as fast.
    rotary = torch.cat((cos, sin))[:, :, None].to(model.embed_tokens.weight.dtype)
    *layers, final_layer = cast("list[MistralDecoderLayer]", list(model.layers))
    for layer in layers:
        hidden = _layer(layer, hidden, rotary, batch.spans, batch.key_index, rows=None)
    hidden = _layer(
        final_layer, hidden, rotary, batch.last_spans, batch.key_index, rows=batch.last_index
    )
    return _rms_norm(hidden, model.norm)


def _layer(
    layer: MistralDecoderLayer,
    hidden: torch.Tensor,  # float32 [total_tokens, hidden_size]
    rotary: torch.Tensor,  # cos and sin, [2, total_tokens, 1, head_dim]
    spans: Spans,
    key_index: torch.Tensor | None,
    *,
    rows: torch.Tensor | None,  # the rows to return; None: all
) -> torch.Tensor:
    attn, mlp = layer.self_attn, layer.mlp
    dtype = attn.q_proj.weight.dtype
    x = _rms_norm(hidden, layer.input_layernorm).to(dtype)
    key = _rotate(attn.k_proj(x).unflatten(-1, (-1, attn.head_dim)), rotary)
    value = attn.v_proj(x).unflatten(-1, (-1, attn.head_dim))
    if rows is not None:
        hidden, x, rotary = hidden[rows], x[rows], rotary[:, rows]
    query = _rotate(attn.q_proj(x).unflatten(-1, (-1, attn.head_dim)), rotary)
    hidden = hidden + attn.o_proj(attention(query, key, value, spans, key_index).flatten(-2))
    x = _rms_norm(hidden, layer.post_attention_layernorm).to(dtype)
    # SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))
    gate = mlp.act_fn(mlp.gate_proj(x))
    return hidden.add_(mlp.down_proj(gate.mul_(mlp.up_proj(x))))


def _rms_norm(hidden: torch.Tensor, norm: MistralRMSNorm) -> torch.Tensor:
    """RMSNorm (Zhang & Sennrich 2019), in float32."""
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight.float(), norm.variance_epsilon)


def _rotate(x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021) in Hugging Face's half-split layout.

    x: `[rows, heads, head_dim]`; rotary: cos and sin, `[2, rows, 1, head_dim]`.
    """
    cos, sin = rotary[0], rotary[1]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
