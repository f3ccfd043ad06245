"""A model, a kernel or a precision that is wrong is not served, and one that is right is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import TEXTS, EditCheckpoint, load
from reference import assert_same
from varlen_on_cpu import as_on_a_card

from e5.attention import attention, varlen
from e5.errors import EngineError
from e5.packing import Spans
from e5.vectors import cosine_scores

BY_PROMPT = "What is snow? " * 40  # some hundred tokens behind the shared prompt


def test_weights_that_are_not_finite_are_refused_at_loading(
    checkpoint: Path, edit_checkpoint: EditCheckpoint
) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layers.1.mlp.up_proj.weight"][5, 5] = float("nan")

    with pytest.raises(EngineError, match=r"self-check: .*NaN or infinity"):
        load(edit_checkpoint(checkpoint, damage))


@pytest.mark.slow
def test_a_kernel_that_mixes_texts_is_refused_at_loading(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixing(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> Any:
        return attention(query, key, value.roll(1, dims=0), *rest)

    monkeypatch.setattr("e5.forward.attention", mixing)
    with pytest.raises(
        EngineError, match="self-check: a text's vector changes with the other texts"
    ):
        load(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["none", "aligned to the first key"])
def test_a_kernel_with_a_wrong_mask_is_refused_at_loading(
    checkpoint: Path, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        causal = mask != "none" and len(query) > 1
        output = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        return output[0].transpose(0, 1)

    monkeypatch.setattr("e5.attention._one_text", wrong)
    with pytest.raises(
        EngineError, match="self-check: a text's vector changes with the other texts"
    ):
        load(checkpoint)


class TestAsOnACard:
    """The CUDA branch, by a CPU kernel behind the op of torch's FlashAttention."""

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_its_vectors_are_those_of_float32(self, checkpoint: Path, dtype: str) -> None:
        exact, texts = load(checkpoint), [*TEXTS, BY_PROMPT]
        with as_on_a_card() as calls:
            embedder = load(checkpoint, dtype=dtype)
            checked = len(calls)
            found = embedder.encode_query(texts), embedder.encode_document(texts)
        assert checked > 2
        assert len(calls) > checked
        assert any(num_texts > 1 for num_texts, _ in calls[checked:])
        for ours, truth in zip(
            found, (exact.encode_query(texts), exact.encode_document(texts)), strict=True
        ):
            assert np.diag(cosine_scores(ours, truth)).min() >= 99.95

    @pytest.mark.slow
    def test_float32_never_asks_it(self, checkpoint: Path) -> None:
        with as_on_a_card() as calls:
            assert_same(load(checkpoint).encode_query(TEXTS), load(checkpoint).encode_query(TEXTS))
        assert not calls

    @pytest.mark.slow
    @pytest.mark.parametrize("tile", [64, 128])
    def test_a_kernel_that_is_wrong_beyond_a_tile_is_refused(
        self, checkpoint: Path, tile: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Wrong the same way alone and in a batch, so only SDPA tells."""

        def wrong(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans
        ) -> torch.Tensor:
            output, start = varlen(query, key, value, spans), 0
            for rows, keys in zip(spans.query_lengths, spans.key_lengths, strict=True):
                if keys > tile:  # the last row of a long text
                    output[start + rows - 1] = output[start + rows - 1].flip(-1)
                start += rows
            return output

        for module in ("e5.attention", "e5.self_check"):
            monkeypatch.setattr(f"{module}.varlen", wrong)
        with as_on_a_card(), pytest.raises(EngineError, match=r"FlashAttention and SDPA disagree"):
            load(checkpoint, dtype="bfloat16")

    def test_matrix_products_that_lose_precision_are_refused(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        linear = F.linear

        def coarse(x: torch.Tensor, weight: torch.Tensor, bias: None = None) -> torch.Tensor:
            product = linear(x, weight, bias)
            return product if x.dtype == torch.float32 else (product * 2).round() / 2

        monkeypatch.setattr(F, "linear", coarse)
        with pytest.raises(EngineError, match=r"layers in bfloat16 on cpu differ from float32"):
            load(checkpoint, dtype="bfloat16")
