"""OpenAI's embeddings and models, as OpenAI, Voyage, NVIDIA, Jina and LiteLLM clients send them.

They share the route and the answer, and differ in how they name a text's role: `input_type`,
`task`, or nothing but the model's name.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel

from e5.gateway.client_request import ClientRequest
from e5.gateway.model_names import ModelNames
from e5.gateway.wire import EmbeddingOptions, OneOrMoreTexts, RouteContext, named_texts, one_of
from e5.serving import Answer
from e5.vectors import encode_base64


class EmbeddingsRequest(EmbeddingOptions):
    """Texts to embed, as OpenAI's clients and those that follow them send them."""

    input: OneOrMoreTexts
    encoding_format: Annotated[Literal["float", "base64"] | None, one_of("float", "base64")] = None
    output_dtype: Annotated[Literal["float"] | None, one_of("float")] = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        texts, names = named_texts(self.input, "input")
        model, suffix = context.model_names.resolve(self.model)
        as_base64 = self.encoding_format == "base64"

        def build_body(answer: Answer) -> dict[str, Any]:
            tokens = sum(answer.tokens)
            return {
                "object": "list",
                "data": [
                    {
                        "object": "embedding",
                        "index": i,
                        "embedding": encode_base64(row) if as_base64 else row,
                    }
                    for i, row in enumerate(answer.vectors)
                ],
                "model": model,
                "usage": {
                    "prompt_tokens": tokens,
                    "total_tokens": tokens,
                    "tokens": answer.tokens,
                    "truncated": answer.truncated,
                },
            }

        return self.embed(texts, names, "input", suffix, build_body)


class Embedding(BaseModel):
    """One vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TokenUsage(BaseModel):
    """The number of tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsUsage(TokenUsage):
    """The number of tokens read of each text, and whether it was truncated."""

    tokens: list[int]
    truncated: list[bool]


class EmbeddingsAnswer(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ModelCard(BaseModel):
    """A name of the model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All names of the model."""

    object: Literal["list"]
    data: list[ModelCard]


def model_list(model_names: ModelNames) -> dict[str, Any]:
    """`GET /v1/models`."""
    return {"object": "list", "data": [model_card(name) for name in model_names.names]}


def model_card(name: str) -> dict[str, Any]:
    """`GET /v1/models/{name}`, for a name of the model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "e5"}
