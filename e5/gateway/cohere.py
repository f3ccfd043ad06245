"""Cohere's embed and rerank, v1 and v2; and rerank as Voyage's, Jina's and vLLM's clients send it.

Knows nothing of HTTP or of how vectors are computed.
"""

from typing import Any, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from e5.errors import InputError, quoted
from e5.gateway.client_request import ClientRequest, Result
from e5.gateway.fields import Fields, truncate_of
from e5.gateway.model_names import Models
from e5.gateway.roles import Prompt, prompt_for
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors, as_bits, as_int8, cosine_scores

TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")
Version = Literal[1, 2]


def embed(fields: Fields, models: Models, version: Version) -> ClientRequest:
    """`POST /v1/embed` and `/v2/embed`.

    Raises:
        InputError: naming the field.
        RefusalError: 404 for a model that is not served.
    """
    texts, names, field = _texts(fields)
    _, suffix = models.resolve(fields.text("model"))
    asked = fields.any("embedding_types")
    types = _types(asked if asked is not None else ["float"])
    words = {name: fields.text(name) for name in ("input_type", "task", "prompt_name")}

    def shape(result: Result) -> dict[str, Any]:
        by_type = {kind: _typed(result.vectors, kind) for kind in types}
        flat = version == 1 and asked is None
        answer: dict[str, Any] = {
            "id": str(uuid4()),
            "response_type": "embeddings_floats" if flat else "embeddings_by_type",
            "embeddings": by_type["float"] if flat else by_type,
            "meta": _meta(version, sum(result.tokens)),
        }
        return answer | {"texts": texts if version == 1 else []}

    return ClientRequest(
        texts=texts,
        names=names,
        list_name=field,
        prompt=prompt_for(words, suffix),
        shape=shape,
        normalize=fields.flag("normalize", True),
        dimensions=fields.integer("output_dimension", "dimensions"),
        truncate=truncate_of(fields),
        words={"dimensions": "output_dimension" if "output_dimension" in fields else "dimensions"},
    )


def rerank(fields: Fields, models: Models, version: Version) -> ClientRequest:
    """`POST /v1/rerank`, `/v2/rerank` and `/rerank` with `documents`.

    The answer holds `results`, which Cohere's, Jina's and vLLM's clients read, and the same as
    `data`, which Voyage's read. A score is the cosine.

    Raises:
        InputError: naming the field.
        RefusalError: 404 for a model that is not served.
    """
    query = fields.required("query")
    sent, names = fields.texts("documents", single=False)
    documents = [d.get("text") if isinstance(d, dict) else d for d in sent]
    model, _ = models.resolve(fields.text("model"))
    most = fields.integer("top_n", "top_k")
    if most is not None and most < 1:
        name = "top_n" if "top_n" in fields else "top_k"
        raise InputError(name, str(most), "send 1 or more")
    with_text = fields.flag("return_documents", False)
    instruction = prompt_for({name: fields.text(name) for name in ("task", "instruction")})

    def shape(result: Result) -> dict[str, Any]:
        best = ranked(result.vectors)[:most]
        rows: list[dict[str, Any]] = [{"index": i, "relevance_score": score} for i, score in best]
        tokens = sum(result.tokens)
        return {
            "id": str(uuid4()),
            "object": "list",
            "results": [
                row | ({"document": {"text": documents[row["index"]]}} if with_text else {})
                for row in rows
            ],
            "data": [
                row | ({"document": documents[row["index"]]} if with_text else {}) for row in rows
            ],
            "model": model,
            "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
            "meta": _meta(version, tokens),
        }

    return ClientRequest(
        texts=[query, *documents],
        names=["query", *names],
        list_name="documents",
        prompt=Prompt(instruction.task or DEFAULT_TASK, "query"),
        shape=shape,
        num_bare=0 if instruction.side == "symmetric" else len(documents),
        truncate=truncate_of(fields),
    )


def ranked(vectors: Vectors) -> list[tuple[int, float]]:
    """The texts after the first, as places from 0 on, with their cosine to it, the best first."""
    scores = cosine_scores(vectors[:1], vectors[1:])[0] / 100
    return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def _texts(fields: Fields) -> tuple[list[Any], list[str], str]:
    """`texts`, or the text of each of version 2's `inputs`."""
    if "texts" in fields or "inputs" not in fields:
        if "images" in fields:
            raise InputError("images", "images", "send texts: this model reads nothing else")
        return (*fields.texts("texts", single=False), "texts")
    inputs, names = fields.texts("inputs", single=False)
    texts = []
    for name, item in zip(names, inputs, strict=True):
        content = item.get("content") if isinstance(item, dict) else None
        parts = content if isinstance(content, list) else [None]
        words = [part.get("text") if isinstance(part, dict) else None for part in parts]
        if not all(isinstance(word, str) for word in words):
            raise InputError(
                name, quoted(item), 'send {"content": [{"type": "text", "text": "..."}]}'
            )
        texts.append("\n".join(map(str, words)))
    return texts, names, "inputs"


def _types(asked: Any) -> list[str]:
    if not isinstance(asked, list) or not asked:
        raise InputError("embedding_types", quoted(asked), f"send a list of {', '.join(TYPES)}")
    for i, kind in enumerate(asked):
        if kind not in TYPES:
            remedy = f"send one of {', '.join(TYPES)}"
            raise InputError(f"embedding_types[{i}]", quoted(kind), remedy)
    return list(dict.fromkeys(asked))


def _typed(vectors: Vectors, kind: str) -> list[Any]:
    if kind == "float":
        return list(vectors)
    if kind == "base64":
        from base64 import b64encode

        return [b64encode(row.data).decode() for row in vectors]
    return list(quantize(vectors, kind))


def quantize(vectors: Vectors, kind: str) -> NDArray[Any]:
    """Vectors in fewer bits, as Cohere names them.

    `int8` and `ubinary` are `as_int8` and `as_bits`; `uint8` is the first plus 128, `binary` the
    second minus 128.

    Example:
        >>> quantize(np.array([[1, -0.5, 0, 0.25]], np.float32), "int8")
        array([[127, -64,   0,  32]], dtype=int8)
        >>> quantize(np.array([[1, -0.5, 0, 0.25]], np.float32), "ubinary")
        array([[144]], dtype=uint8)
    """
    if kind in ("binary", "ubinary"):
        bits = as_bits(vectors)
        return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    steps = as_int8(vectors)
    return steps if kind == "int8" else (steps.astype(np.int16) + 128).astype(np.uint8)


def _meta(version: Version, tokens: int) -> dict[str, Any]:
    """Cohere's clients need `billed_units`."""
    return {
        "api_version": {"version": str(version)},
        "billed_units": {"input_tokens": tokens, "search_units": 1},
    }
