"""Vectors of the built-in checkpoint as other libraries make them, most of them wrong.

Each maker is code as its users write it: transformers with its default ids, sentence-transformers
with and without the model's settings, its pooling, its quantisation. None of it is ours. What the
audit must say of each stands beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from fake_http import Asked, Reply, serve_http
from server import ROOT

from e5.audit import TextRole
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors

WEIGHTS = ROOT / "weights" / "e5-mini"
PROMPT = f"Instruct: {DEFAULT_TASK}\nQuery: "
Make = Callable[[Sequence[str], Sequence[TextRole]], Vectors]


@dataclass(frozen=True)
class Maker:
    """Who makes vectors in some way.

    Attributes:
        make: texts and what each is for -> vectors.
        verdict: what the audit must say of queries and documents together.
        rounded: whether the vectors have a coarse format already.
    """

    make: Make
    verdict: str
    rounded: bool = False


@cache
def model() -> Any:
    from transformers import AutoModel  # late: the import takes seconds

    return AutoModel.from_pretrained(WEIGHTS, dtype=torch.float32)


def tokenizer(**options: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(WEIGHTS, **options)


def with_prompts(texts: Sequence[str], roles: Sequence[TextRole]) -> list[str]:
    return [
        PROMPT + text if role == "query" else text for text, role in zip(texts, roles, strict=True)
    ]


def last_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`last_token_pool`, as the model's card has it."""
    if mask[:, -1].sum() == len(mask):
        return states[:, -1]
    return states[torch.arange(len(mask)), mask.sum(dim=1) - 1]


@torch.inference_mode()
def transformers_vectors(
    texts: Sequence[str],
    *,
    eos: bool,
    side: str = "right",
    read_last: bool = False,
    batch_size: int = 8,
    **options: Any,
) -> Vectors:
    """Padded batches of transformers, in the order of the texts.

    Args:
        texts: with their prompts.
        eos: whether `</s>` is added after truncation, as the model's card does.
        side: where padding goes.
        read_last: read position -1, wherever padding is.
        batch_size: texts of a batch.
        options: of the tokenizer's call.
    """
    tokenize, found = tokenizer(padding_side=side), []
    for start in range(0, len(texts), batch_size):
        ids = tokenize(list(texts[start : start + batch_size]), **options)["input_ids"]
        if eos:
            ids = [[*each, tokenize.eos_token_id] for each in ids]
        batch = tokenize.pad({"input_ids": ids}, return_tensors="pt")
        states = model()(**batch).last_hidden_state
        rows = states[:, -1] if read_last else last_tokens(states, batch["attention_mask"])
        found.append(rows.numpy())
    return np.concatenate(found)


def by_transformers(*, prompts: bool = True, **options: Any) -> Make:
    def make(texts: Sequence[str], roles: Sequence[TextRole]) -> Vectors:
        given = with_prompts(texts, roles) if prompts else texts
        return transformers_vectors(given, **options)

    return make


@cache
def sentence_transformer(pooling: str | None, *, include_prompt: bool = True) -> Any:
    """The model with its settings (the pooling that they name), or as it loads without them."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    if pooling is None:
        return SentenceTransformer(str(WEIGHTS), device="cpu")
    transformer = modules.Transformer(str(WEIGHTS))
    pool = modules.Pooling(192, pooling_mode=pooling, include_prompt=include_prompt)
    return SentenceTransformer(modules=[transformer, pool], device="cpu")


def by_sentence_transformers(
    pooling: str | None,
    *,
    prompts: bool = True,
    include_prompt: bool = True,
    max_seq_length: int | None = None,
    truncate_dim: int | None = None,
    precision: str = "float32",
) -> Make:
    def make(texts: Sequence[str], roles: Sequence[TextRole]) -> Vectors:
        encoder = sentence_transformer(pooling, include_prompt=include_prompt)
        encoder.max_seq_length = max_seq_length or 4096
        found = np.empty((len(texts), truncate_dim or 192), np.float32)
        for role in ("query", "document"):
            rows = [i for i, each in enumerate(roles) if each == role]
            if rows:
                prompt = PROMPT if prompts and role == "query" else None
                found[rows] = encoder.encode(
                    [texts[i] for i in rows], prompt=prompt, truncate_dim=truncate_dim
                )
        if precision == "float32":
            return found
        from sentence_transformers.util import quantize_embeddings

        quantised: Vectors = np.asarray(quantize_embeddings(found, precision)).astype(np.float32)
        return quantised

    return make


TRANSFORMERS = {
    "as the card says": Maker(
        by_transformers(eos=True, truncation=True, max_length=4095, split_special_tokens=True),
        "right",
    ),
    "left padding, read at -1": Maker(
        by_transformers(eos=True, side="left", read_last=True, split_special_tokens=True), "right"
    ),
    "default ids": Maker(by_transformers(eos=False), "no_eos + special_tokens_parsed"),
    "default ids, left padding": Maker(
        by_transformers(eos=False, side="left", read_last=True), "no_eos + special_tokens_parsed"
    ),
    "special tokens": Maker(by_transformers(eos=True), "special_tokens_parsed"),
    "no prompts": Maker(
        by_transformers(eos=True, prompts=False, split_special_tokens=True), "no_instruction"
    ),
    "truncated": Maker(
        by_transformers(eos=True, truncation=True, max_length=127, split_special_tokens=True),
        "truncated 128",
    ),
    "default ids, truncated": Maker(
        by_transformers(eos=False, truncation=True, max_length=128, split_special_tokens=True),
        "no_eos + truncated 128",
    ),
    "right padding, read at -1": Maker(
        by_transformers(eos=True, read_last=True, split_special_tokens=True), "padding_read"
    ),
    "default ids, right padding, read at -1": Maker(
        by_transformers(eos=False, read_last=True, split_special_tokens=True),
        "no_eos + padding_read",
    ),
}

PARSED = "no_eos + special_tokens_parsed"  # what its tokenizer does by default


def by_langchain(texts: Sequence[str], _: Sequence[TextRole]) -> Vectors:
    """LangChain's HuggingFaceEmbeddings with nothing set but the model."""
    module = pytest.importorskip("langchain_huggingface")
    embeddings = module.HuggingFaceEmbeddings(model_name=str(WEIGHTS))
    return np.array(embeddings.embed_documents(list(texts)), np.float32)


def by_llamaindex(texts: Sequence[str], roles: Sequence[TextRole]) -> Vectors:
    """LlamaIndex's client of OpenAI-like endpoints, before an engine that is right."""
    module = pytest.importorskip("llama_index.embeddings.openai_like")

    def answer(request: Asked) -> Reply:
        vectors = transformers_vectors(
            request.body["input"], eos=True, split_special_tokens=True
        ).tolist()
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return 200, {"data": data, "model": "e5", "usage": {}}

    with serve_http(answer) as url:
        client = module.OpenAILikeEmbedding(
            model_name="e5", api_base=f"{url}/v1", api_key="none", timeout=600, max_retries=0
        )
        found = client.get_text_embedding_batch(with_prompts(texts, roles))
    return np.array(found, np.float32)


SENTENCE_TRANSFORMERS = {
    "with the model's settings": Maker(by_sentence_transformers("lasttoken"), PARSED),
    "with no prompts": Maker(
        by_sentence_transformers("lasttoken", prompts=False), f"{PARSED} + no_instruction"
    ),
    "without the model's settings": Maker(
        by_sentence_transformers(None, prompts=False), f"{PARSED} + no_instruction + mean"
    ),
    "its mean": Maker(by_sentence_transformers("mean"), f"{PARSED} + mean"),
    "its mean without the prompt": Maker(
        by_sentence_transformers("mean", include_prompt=False),
        f"{PARSED} + mean_with_instruction_masked",
    ),
    "its first token": Maker(by_sentence_transformers("cls"), "first_token"),
    "its weighted mean": Maker(by_sentence_transformers("weightedmean"), "unknown"),
    "its maximum": Maker(by_sentence_transformers("max"), "unknown"),
    "its maximum length": Maker(
        by_sentence_transformers("lasttoken", max_seq_length=128), f"{PARSED} + truncated 128"
    ),
    "its dimensions": Maker(
        by_sentence_transformers("lasttoken", truncate_dim=96), f"{PARSED} + dimensions 96"
    ),
    "its int8": Maker(
        by_sentence_transformers("lasttoken", precision="int8"), PARSED, rounded=True
    ),
    "its uint8": Maker(
        by_sentence_transformers("lasttoken", precision="uint8"), PARSED, rounded=True
    ),
    "its bits": Maker(
        by_sentence_transformers("lasttoken", precision="binary"), f"{PARSED} + binary", True
    ),
    "its bits in uint8": Maker(
        by_sentence_transformers("lasttoken", precision="ubinary"), f"{PARSED} + binary", True
    ),
}

ADAPTERS = {
    "LangChain's default": Maker(
        by_langchain, f"{PARSED} + no_instruction + newlines_replaced + mean"
    ),
    "LlamaIndex's OpenAI client": Maker(by_llamaindex, "newlines_replaced"),
}
