"""Cohere's embed and rerank, and rerank as Voyage's, Jina's and vLLM's clients send it."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainValidator, model_validator
from typing_extensions import TypedDict

from e5.errors import InputError, quoted
from e5.gateway import wire
from e5.gateway.client_request import ClientRequest
from e5.gateway.openai import RoleOptions
from e5.gateway.ranking import ranked
from e5.gateway.roles import PromptChoice, prompt_for
from e5.gateway.wire import MAX_TEXTS, RouteContext, list_of_texts, named_texts
from e5.prompts import DEFAULT_TASK
from e5.serving import Answer
from e5.validation import wrong_value
from e5.vectors import Vectors, as_bits, as_int8, encode_base64

EmbeddingType: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
EmbeddingTypes: TypeAlias = Annotated[list[EmbeddingType], Field(min_length=1, fail_fast=True)]


def _joined_parts(value: object) -> str:
    """The text of an input of version 2, whose parts are joined by line breaks."""
    content = value.get("content") if isinstance(value, dict) else None
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise wrong_value(quoted(value), 'send {"content": [{"type": "text", "text": "..."}]}')
    return "\n".join(map(str, texts))


TextObject = TypedDict("TextObject", {"text": wire.Text})
TextParts = TypedDict("TextParts", {"content": Annotated[list[TextObject], Field(min_length=1)]})
_Input = Annotated[str, PlainValidator(_joined_parts, json_schema_input_type=TextParts)]
_Document = Annotated[
    Any, PlainValidator(lambda it: it, json_schema_input_type=wire.Text | dict[str, Any])
]
_LIMITED = Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)

CohereMeta = TypedDict("CohereMeta", {"billed_units": dict[str, int]})
_ByType: TypeAlias = dict[EmbeddingType, list[list[float]] | list[str]]
CohereEmbedAnswer = TypedDict(
    "CohereEmbedAnswer",
    {
        "id": str,
        "response_type": Literal["embeddings_floats", "embeddings_by_type"],
        "texts": list[str],
        "embeddings": _ByType | list[list[float]],
        "meta": CohereMeta,
    },
)
RankedDocument = TypedDict("RankedDocument", {"index": int, "relevance_score": float})
RerankUsage = TypedDict("RerankUsage", {"prompt_tokens": int, "total_tokens": int})
RerankAnswer = TypedDict(
    "RerankAnswer",
    {
        "id": str,
        "results": list[RankedDocument],
        "data": list[RankedDocument],
        "model": str,
        "usage": RerankUsage,
        "meta": CohereMeta,
    },
)


class CohereOptions(RoleOptions):
    """The options that Cohere's clients send with what to embed."""

    embedding_types: EmbeddingTypes | None = None

    def request_by_type(self, texts: list[Any], field: str, context: RouteContext) -> ClientRequest:
        """The request to embed the texts of one field. Raises as `WireRequest.client_request`."""
        _, suffix = context.resolve_model(self.model)
        version = _version(context)
        is_flat = version == "1" and self.embedding_types is None

        def build_body(answer: Answer) -> dict[str, Any]:
            types = dict.fromkeys(self.embedding_types or ["float"])
            by_type = {kind: _of_type(answer.vectors, kind) for kind in types}
            return {
                "id": str(uuid4()),
                "response_type": "embeddings_floats" if is_flat else "embeddings_by_type",
                "embeddings": by_type["float"] if is_flat else by_type,
                "meta": _meta(version, sum(answer.tokens)),
                "texts": texts if version == "1" else [],
            }

        dimensions = self.first_given("output_dimension", "dimensions")
        return self.embedding_request(texts, field, self.prompt(suffix), build_body, dimensions)


class CohereTextsRequest(CohereOptions):
    """Texts to embed."""

    texts: wire.Texts

    fits = staticmethod(lambda body: body.get("inputs") is None and body.get("texts") is not None)

    @model_validator(mode="before")
    @classmethod
    def _refuse_images(cls, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if body.get("images") is not None:
            raise InputError("images", "images", "send texts: this model reads nothing else")
        return body

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        return self.request_by_type(self.texts, "texts", context)


class CohereInputsRequest(CohereOptions):
    """Texts to embed, each as a list of parts."""

    inputs: Annotated[list[_Input], _LIMITED, BeforeValidator(wire.few_texts)]

    fits = staticmethod(lambda body: body.get("texts") is None and body.get("inputs") is not None)

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        return self.request_by_type(self.inputs, "inputs", context)


class RerankRequest(wire.TruncateOptions):
    """A query, and documents to rank."""

    query: wire.Text
    documents: Annotated[list[_Document], _LIMITED, BeforeValidator(list_of_texts)]
    rank_fields: list[str] | None = None
    model: str | None = None
    top_n: wire.Count | None = None
    top_k: wire.Count | None = None
    return_documents: bool | None = None
    task: wire.Role = None
    instruction: wire.Role = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`. A score is the cosine.

        The answer holds `results`, which Cohere's, Jina's and vLLM's clients read, and the same as
        `data`, which Voyage's read.
        """
        model, _ = context.resolve_model(self.model)
        documents = [_document_text(i, it, self.rank_fields) for i, it in enumerate(self.documents)]
        _, fields = named_texts(documents, "documents")
        choice = prompt_for({"task": self.task, "instruction": self.instruction})
        _, top = self.first_given("top_n", "top_k")
        version = _version(context)

        def build_body(answer: Answer) -> dict[str, Any]:
            tokens = sum(answer.tokens)
            best = ranked(answer.vectors)[:top]
            rows = [{"index": i, "relevance_score": score} for i, score in best]
            texts = [documents[i] for i, _ in best]
            results: list[dict[str, Any]] = rows
            data: list[dict[str, Any]] = rows
            if self.return_documents:
                pairs = list(zip(rows, texts, strict=True))
                results = [row | {"document": {"text": text}} for row, text in pairs]
                data = [row | {"document": text} for row, text in pairs]
            return {
                "id": str(uuid4()),
                "object": "list",
                "results": results,
                "data": data,
                "model": model,
                "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
                "meta": _meta(version, tokens),
            }

        return ClientRequest(
            texts=[self.query, *documents],
            fields=["query", *fields],
            list_name="documents",
            prompt=PromptChoice(choice.task or DEFAULT_TASK, "query"),
            build_body=build_body,
            document_positions=() if choice.side == "symmetric" else range(1, len(documents) + 1),
            truncate=self.truncates,
        )


def _document_text(position: int, document: object, rank_fields: list[str] | None) -> object:
    """The text to rank: of an object its `text`, or the named fields joined by line breaks."""
    if not isinstance(document, dict):
        return document
    if not rank_fields:
        if document.get("text") is None:
            remedy = 'send {"text": "..."}, or name what to rank by in rank_fields'
            raise InputError(f"documents[{position}]", "an object without text", remedy)
        return document["text"]
    values = [document[name] for name in rank_fields if document.get(name) is not None]
    if not values:
        received = f"an object without {', '.join(map(quoted, rank_fields))}"
        raise InputError(f"documents[{position}]", received, "send one of these fields in each")
    return "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values)


def quantize(vectors: Vectors, kind: str) -> NDArray[Any]:
    """Vectors in fewer bits, as Cohere names them.

    `int8` and `ubinary` are `as_int8` and `as_bits`; `uint8` is `int8` plus 128, and `binary` is
    `ubinary` minus 128.

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


def _of_type(vectors: Vectors, kind: str) -> list[Any]:
    if kind == "base64":
        return [encode_base64(row) for row in vectors]
    return list(vectors if kind == "float" else quantize(vectors, kind))


def _version(context: RouteContext) -> str:
    return "2" if context.path.startswith("/v2/") else "1"


def _meta(version: str, tokens: int) -> dict[str, Any]:
    units = {"input_tokens": tokens, "search_units": 1}
    return {"api_version": {"version": version}, "billed_units": units}
