"""The student, a small MistralModel: its first weights, its training forward, and its export."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import MistralConfig, MistralModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, apply_rotary_pos_emb

from e5.vectors import Vectors

HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_DIM, MLP = 192, 3, 8, 4, 48, 384
ATTENTION_TEXTS = 32  # texts that are padded to the longest of them for attention


def new_student(piece_vectors: Vectors) -> MistralModel:
    """Make a student that starts near mean pooling over its token embeddings.

    Args:
        piece_vectors: `[vocab_size, HIDDEN]`, the teacher's unit vector of each token.
    """
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(piece_vectors),
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=4096,
        sliding_window=4096,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        use_cache=False,
    )
    model = MistralModel(config)
    with torch.no_grad():
        rms = 0.25 * HIDDEN**0.5  # of a unit vector scaled so that its elements' RMS is 0.25
        model.embed_tokens.weight.copy_(torch.from_numpy(piece_vectors) * rms)
        layers = decoder_layers(model)
        for layer in layers:
            attn = layer.self_attn
            groups = HEADS // KEY_VALUE_HEADS
            strength = 1 if layer is layers[-1] else 0.25  # at first only the last layer pools
            copied = torch.eye(HIDDEN).view(KEY_VALUE_HEADS, HEAD_DIM, HIDDEN)
            copied = copied.repeat_interleave(groups, dim=0).flatten(0, 1).T / groups
            attn.v_proj.weight.copy_(torch.eye(HIDDEN) + 0.02 * torch.randn(HIDDEN, HIDDEN))
            attn.o_proj.weight.copy_(strength * copied + 0.02 * torch.randn_like(copied))
    return model


def decoder_layers(model: MistralModel) -> list[MistralDecoderLayer]:
    """The model's layers, with their own type."""
    return list(model.layers)


def forward(model: MistralModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The last norm's output for each text's last token, `[num_texts, hidden]`, with gradients.

    The tokens lie on one flat axis, the shortest text first. Only attention pads, for a few texts
    of similar length at a time, and on the right, where causal attention does not look. The last
    layer computes the last tokens only.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    lengths = [len(texts[i]) for i in order]
    flat = torch.tensor([token for i in order for token in texts[i]])
    positions = torch.cat([torch.arange(length) for length in lengths])
    last = torch.tensor(lengths).cumsum(0) - 1
    hidden = model.embed_tokens(flat)  # [total_tokens, hidden]
    cos, sin = (table[0] for table in model.rotary_emb(hidden, positions[None]))
    layers = decoder_layers(model)
    for layer in layers:
        attn, final = layer.self_attn, layer is layers[-1]
        x = layer.input_layernorm(hidden)
        key, value = (
            proj(x).unflatten(-1, (-1, attn.head_dim)) for proj in (attn.k_proj, attn.v_proj)
        )
        _, key = apply_rotary_pos_emb(key, key, cos, sin)
        if final:
            hidden, x, cos, sin = hidden[last], x[last], cos[last], sin[last]
        query = attn.q_proj(x).unflatten(-1, (-1, attn.head_dim))
        query, _ = apply_rotary_pos_emb(query, query, cos, sin)
        mixed = _attention(query, key, value, lengths, [1] * len(texts) if final else lengths)
        hidden = hidden + attn.o_proj(mixed.flatten(-2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    restored = torch.empty(len(texts), dtype=torch.long)
    restored[torch.tensor(order)] = torch.arange(len(texts))
    vectors: torch.Tensor = model.norm(hidden)[restored]
    return vectors


def _attention(
    query: torch.Tensor,  # [sum of rows, heads, head_dim], text after text, like key and value
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    rows: Sequence[int],  # query rows of each text: all its tokens, or the last one
) -> torch.Tensor:
    starts, row_starts = np.cumsum([0, *lengths]), np.cumsum([0, *rows])
    mixed = []
    for i in range(0, len(lengths), ATTENTION_TEXTS):
        part = slice(i, i + ATTENTION_TEXTS)
        keys, own_keys = _padded(starts[:-1][part], lengths[part])
        queries, own_rows = _padded(row_starts[:-1][part], rows[part])
        q, k, v = (
            x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:]).transpose(1, 2)
            for x, index in ((query, queries), (key, keys), (value, keys))
        )
        last_only = q.shape[2] == 1  # a last token attends to all tokens of its text
        padded = F.scaled_dot_product_attention(
            *(q, k, v),
            attn_mask=own_keys[:, None, None] if last_only else None,
            is_causal=not last_only,
            enable_gqa=True,
        )
        mixed.append(
            padded.transpose(1, 2).flatten(0, 1).index_select(0, own_rows.flatten().nonzero()[:, 0])
        )
    return torch.cat(mixed)


def _padded(starts: Vectors, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The flat positions of the texts' tokens, `[texts, longest]`, and which are not padding."""
    column = torch.arange(max(lengths))[None]
    own = column < torch.tensor(lengths)[:, None]
    return torch.from_numpy(starts)[:, None] + column * own, own


def export(model: MistralModel, folder: Path) -> None:
    """Write a checkpoint folder in float16, as the 7B model's is, but not `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    half = MistralModel(model.config)
    half.load_state_dict(model.state_dict())
    torch.nn.Module.to(half, torch.float16)
    half.config.dtype = torch.float16
    half.save_pretrained(folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def principal_axes(labels: Vectors) -> Vectors:
    """The first `HIDDEN` principal axes of the labels, without centring: `[384, HIDDEN]`."""
    _, axes = np.linalg.eigh(labels.T.astype(np.float64) @ labels)
    return np.ascontiguousarray(axes[:, ::-1][:, :HIDDEN]).astype(np.float32)


def unit(vectors: Vectors) -> Vectors:
    """L2-normalise the rows."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return scaled
