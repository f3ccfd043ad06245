"""The self-check: whether an engine computes right vectors with this card, driver and torch.

Every load runs it. Kernels work in tiles of 64 to 256 rows, so its texts are long and short, alone
and behind a shared prefix.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from e5.attention import sdpa, uses_varlen, varlen
from e5.engine import Engine
from e5.errors import EngineError
from e5.forward import forward
from e5.layers import StreamedLayers
from e5.mistral import Mistral
from e5.packing import PackedBatch, pack
from e5.tokenizer import TokenIds

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999
# Lower, because bitsandbytes decides for a whole batch which columns 8 bits do not serve.
MIN_QUANTISED_COSINE = 0.99
# Computed again in float32 on the CPU: these layers, for these texts of at most this length.
CHECKED_LAYERS, CHECKED_TEXTS, CHECKED_LENGTH = 2, 3, 32


def self_check(engine: Engine, sequences: Sequence[TokenIds]) -> None:
    """Check an engine on token ids of short and long texts.

    The vectors must be finite, and each the same alone and in a batch. In the packed engine, where
    FlashAttention is used, it must agree with SDPA on the same device; in 16 bits, the first two
    layers with float32 on the CPU, for a few short texts. Some texts should share a prefix: if
    attention were not causal, the tokens after the prefix would change the vectors.

    Raises:
        EngineError: naming the check that failed.
    """
    started = time.perf_counter()
    model = engine.model
    packed = isinstance(model, Mistral)
    if packed and uses_varlen(model.device, model.embed_tokens.weight.dtype):
        _check_attention(model, pack(sorted(set(sequences))).to(model.device))
    # A forward takes up to seconds where weights are not on the card.
    on_card = packed and not isinstance(model.layers, StreamedLayers)
    _check_batching(engine, sequences, step=1 if on_card else 6)
    if packed and model.embed_tokens.weight.dtype != torch.float32:
        short = [ids for ids in sorted(set(sequences)) if len(ids) <= CHECKED_LENGTH]
        _check_precision(engine, short[:: max(1, len(short) // CHECKED_TEXTS)])
    logger.info("self-check passed in %.2f s", time.perf_counter() - started)


def _check_batching(engine: Engine, sequences: Sequence[TokenIds], *, step: int) -> None:
    """Compare every `step`-th text alone with the same text among all."""
    some = slice(step - 1, None, step)  # the last text too
    together = torch.from_numpy(engine.compute(sequences))
    alone = torch.from_numpy(np.concatenate([engine.compute([ids]) for ids in sequences[some]]))
    if not (together.isfinite().all() and alone.isfinite().all()):
        raise EngineError(
            "self-check: the model produced a vector with NaN or infinity for a plain text; "
            "its weights are damaged, or need another E5_DTYPE."
        )
    remedy = "the attention of this torch build is wrong: use another build"
    failure = "a text's vector changes with the other texts of its batch"
    least = MIN_QUANTISED_COSINE if engine.quantised else MIN_COSINE
    _compare(failure, together[some], alone, remedy, least)


def _check_attention(model: Mistral, batch: PackedBatch) -> None:
    """Compare FlashAttention with SDPA on random heads of the model's shape, for both spans."""
    config, like = model.config, model.embed_tokens.weight
    random = torch.Generator(like.device).manual_seed(0)

    def heads(rows: int, count: int) -> torch.Tensor:
        shape = (rows, count, config.head_size)
        return torch.randn(shape, generator=random, dtype=like.dtype, device=like.device)

    for spans in (batch.spans, batch.last_spans):
        query = heads(sum(spans.query_lengths), config.num_attention_heads)
        key, value = (heads(sum(spans.key_lengths), config.num_key_value_heads) for _ in range(2))
        flash, plain = (kernel(query, key, value, spans).float() for kernel in (varlen, sdpa))
        remedy = "the attention of this torch build is wrong on this card: use another build"
        _compare("FlashAttention and SDPA disagree", flash, plain, remedy)


def _check_precision(engine: Engine, texts: Sequence[TokenIds]) -> None:
    """Compare the first layers on the device with the same layers in float32 on the CPU."""
    model, batch = engine.model, pack(texts)
    layers = min(CHECKED_LAYERS, model.config.num_hidden_layers)
    found = forward(model, batch.to(model.device), compiled=engine.compiled, num_layers=layers)
    # A vocabulary of the few tokens that occur: the rest of the embedding is not copied.
    used, new_ids = torch.unique(batch.input_ids, return_inverse=True)
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    _compare(
        f"{CHECKED_LAYERS} layers in {dtype} on {model.device} differ from float32 on the CPU",
        found.cpu(),
        forward(_first_layers(model, layers, used), replace(batch, input_ids=new_ids)),
        "use another E5_DTYPE or another torch build",
    )


@torch.inference_mode()
def _first_layers(model: Mistral, layers: int, tokens: torch.Tensor) -> Mistral:
    """A model on the CPU, in float32, of the first layers, the last norm and these tokens."""
    changes = {"num_hidden_layers": layers, "vocab_size": len(tokens)}
    shallow = Mistral(model.config.model_copy(update=changes))
    tensors = model.state_dict()
    tensors["embed_tokens.weight"] = tensors["embed_tokens.weight"][tokens.to(model.device)]
    # Moved first and then converted: that sends half the bytes of float32.
    tensors = {name: tensors[name].cpu().float() for name in shallow.state_dict()}
    shallow.load_state_dict(tensors, assign=True)
    return shallow.eval()


def _compare(
    failure: str,
    these: torch.Tensor,
    others: torch.Tensor,
    remedy: str,
    least: float = MIN_COSINE,
) -> None:
    """Raise an EngineError unless all rows of two tensors have almost the same direction."""
    cosine = F.cosine_similarity(these, others, dim=-1).min().item()
    if not cosine >= least:
        raise EngineError(f"self-check: {failure} (cosine {cosine:.4f}); {remedy}.")
