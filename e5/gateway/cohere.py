"""Cohere's embed and rerank, and rerank as Voyage's, Jina's and vLLM's clients send it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    model_validator,
)

from e5.errors import InputError, quoted
from e5.gateway.client_request import ClientRequest
from e5.gateway.openai import TokenUsage
from e5.gateway.roles import Prompt, prompt_for
from e5.gateway.wire import (
    Count,
    EmbeddingOptions,
    Role,
    RouteContext,
    Text,
    Texts,
    Truncate,
    WireRequest,
    list_of_texts,
    named_texts,
)
from e5.prompts import DEFAULT_TASK
from e5.serving import Answer
from e5.serving.request import MAX_TEXTS
from e5.validation import wrong_value
from e5.vectors import Vectors, as_bits, as_int8, cosine_scores, encode_base64

EmbeddingType: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
_EmbeddingTypes: TypeAlias = Annotated[list[EmbeddingType], Field(min_length=1, fail_fast=True)]


def _joined_parts(value: object) -> str:
    """The text of an input of version 2, whose parts are joined by line breaks."""
    content = value.get("content") if isinstance(value, dict) else None
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise wrong_value(quoted(value), 'send {"content": [{"type": "text", "text": "..."}]}')
    return "\n".join(map(str, texts))


def _document_text(value: object) -> object:
    return value.get("text") if isinstance(value, dict) else value


class TextObject(BaseModel):
    """An object that holds a text."""

    text: Text


class TextParts(BaseModel):
    """The parts of one text."""

    content: Annotated[list[TextObject], Field(min_length=1)]


class CohereOptions(EmbeddingOptions):
    """The options that Cohere's clients send with what to embed."""

    dimension_fields: ClassVar = ("output_dimension", "dimensions")

    embedding_types: Annotated[list[EmbeddingType], Field(min_length=1, fail_fast=True)] | None = (
        None
    )

    def embed_by_type(self, texts: list[Any], field: str, context: RouteContext) -> ClientRequest:
        """The request to embed the texts of one field.

        Raises:
            InputError: naming the field.
            RefusalError: 404 for a model that is not served.
        """
        _, suffix = context.model_names.resolve(self.model)
        version = _version(context)
        is_flat = version == "1" and self.embedding_types is None

        def build_body(answer: Answer) -> dict[str, Any]:
            types = self.embedding_types or ["float"]
            by_type = {kind: _of_type(answer.vectors, kind) for kind in types}
            return {
                "id": str(uuid4()),
                "response_type": "embeddings_floats" if is_flat else "embeddings_by_type",
                "embeddings": by_type["float"] if is_flat else by_type,
                "meta": _meta(version, sum(answer.tokens)),
                "texts": texts if version == "1" else [],
            }

        _, names = named_texts(texts, field)
        return self.embed(texts, names, field, suffix, build_body)


class CohereTextsRequest(CohereOptions):
    """Texts to embed."""

    texts: Texts

    @model_validator(mode="before")
    @classmethod
    def _refuse_images(cls, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if body.get("texts") is None and body.get("images") is not None:
            raise InputError("images", "images", "send texts: this model reads nothing else")
        return body

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        return self.embed_by_type(self.texts, "texts", context)


class CohereInputsRequest(CohereOptions):
    """Texts to embed, each as a list of parts."""

    inputs: Annotated[
        list[Annotated[str, PlainValidator(_joined_parts, json_schema_input_type=TextParts)]],
        Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True),
        BeforeValidator(list_of_texts),
    ]

    @classmethod
    def fits(cls, body: Mapping[str, Any]) -> bool:
        """See `WireRequest.fits`."""
        return body.get("texts") is None and body.get("inputs") is not None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        return self.embed_by_type(self.inputs, "inputs", context)


class RerankRequest(WireRequest):
    """A query, and documents to rank."""

    query: Text
    documents: Annotated[
        list[
            Annotated[Any, PlainValidator(_document_text, json_schema_input_type=Text | TextObject)]
        ],
        Field(min_length=1, max_length=MAX_TEXTS),
        BeforeValidator(list_of_texts),
    ]
    model: str | None = None
    top_n: Count | None = None
    top_k: Count | None = None
    return_documents: bool | None = None
    truncate: Truncate = None
    truncation: Truncate = None
    task: Role = None
    instruction: Role = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`. A score is the cosine.

        The answer holds `results`, which Cohere's, Jina's and vLLM's clients read, and the same as
        `data`, which Voyage's read.
        """
        model, _ = context.model_names.resolve(self.model)
        documents, names = named_texts(self.documents, "documents")
        instruction = prompt_for({"task": self.task, "instruction": self.instruction})
        _, most = self.first_given("top_n", "top_k")
        version = _version(context)

        def build_body(answer: Answer) -> dict[str, Any]:
            results, data, tokens = [], [], sum(answer.tokens)
            for i, score in ranked(answer.vectors)[:most]:
                row = {"index": i, "relevance_score": score}
                with_text = bool(self.return_documents)
                results.append(row | ({"document": {"text": documents[i]}} if with_text else {}))
                data.append(row | ({"document": documents[i]} if with_text else {}))
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
            names=["query", *names],
            list_name="documents",
            prompt=Prompt(instruction.task or DEFAULT_TASK, "query"),
            build_body=build_body,
            num_documents=0 if instruction.side == "symmetric" else len(documents),
            truncate=self.first_given("truncation", "truncate")[1] is not False,
        )


class BilledUnits(BaseModel):
    """What Cohere would ask money for."""

    input_tokens: int


class CohereMeta(BaseModel):
    """What Cohere's clients need beside the result."""

    billed_units: BilledUnits


class CohereEmbedAnswer(BaseModel):
    """The vectors, by type; version 1 without `embedding_types` has a plain list."""

    id: str
    response_type: Literal["embeddings_floats", "embeddings_by_type"]
    texts: list[str]
    embeddings: dict[EmbeddingType, list[list[float]] | list[str]] | list[list[float]]
    meta: CohereMeta


class RankedDocument(BaseModel):
    """A document's index in the request, and its cosine with the query."""

    index: int
    relevance_score: float


class RerankAnswer(BaseModel):
    """The documents, the best first."""

    id: str
    results: list[RankedDocument]
    data: list[RankedDocument]
    model: str
    usage: TokenUsage
    meta: CohereMeta


def ranked(vectors: Vectors) -> list[tuple[int, float]]:
    """The index of each text after the first, from 0 on, and its cosine with it, the best first."""
    scores = cosine_scores(vectors[:1], vectors[1:])[0] / 100
    return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]


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


def _of_type(vectors: Vectors, kind: str) -> list[Any]:
    if kind == "base64":
        return [encode_base64(row) for row in vectors]
    return list(vectors if kind == "float" else quantize(vectors, kind))


def _version(context: RouteContext) -> str:
    return "2" if context.path.startswith("/v2/") else "1"


def _meta(version: str, tokens: int) -> dict[str, Any]:
    return {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": tokens, "search_units": 1},
    }
