"""OpenAI's embeddings and models, as OpenAI, Voyage, NVIDIA, Jina and LiteLLM clients send them.

They share the route and the answer, and differ in how they name a text's role: `input_type`,
`task`, or nothing but the model's name.
"""

from secrets import token_hex
from typing import Annotated, Any, ClassVar, Literal

from typing_extensions import TypedDict

from e5.gateway import wire
from e5.gateway.client_request import ClientRequest
from e5.gateway.model_names import ModelNames
from e5.gateway.refusals import ErrorStyle
from e5.gateway.roles import PromptChoice, prompt_for
from e5.gateway.wire import RouteContext, one_of
from e5.serving import Answer
from e5.vectors import encode_base64

Embedding = TypedDict(
    "Embedding",
    {"object": Literal["embedding"], "index": int, "embedding": list[float] | str},
)
EmbeddingsUsage = TypedDict(
    "EmbeddingsUsage",
    {"prompt_tokens": int, "total_tokens": int, "tokens": list[int], "truncated": list[bool]},
)
EmbeddingsAnswer = TypedDict(
    "EmbeddingsAnswer",
    {
        "id": str,
        "object": Literal["list"],
        "data": list[Embedding],
        "model": str,
        "usage": EmbeddingsUsage,
    },
)
ModelCard = TypedDict(
    "ModelCard",
    {
        "id": str,
        "object": Literal["model"],
        "created": int,
        "owned_by": str,
        "name": str,
        "endpoints": list[str],
        "type": Literal["base"],
        "capabilities": dict[str, bool],
    },
)
ModelList = TypedDict(
    "ModelList", {"object": Literal["list"], "data": list[ModelCard], "models": list[ModelCard]}
)


class RoleOptions(wire.EmbedOptions):
    """The options that clients of OpenAI, Voyage, NVIDIA, Jina and Cohere send with texts."""

    model: str | None = None
    output_dimension: wire.Dimensions = None
    input_type: wire.Role = None
    task: wire.Role = None

    def prompt(self, suffix: str) -> PromptChoice:
        """The prompt of the texts; `suffix` is the ending of the model's name.

        Raises:
            InputError: for fields that contradict each other.
        """
        roles = {"input_type": self.input_type, "task": self.task, "prompt_name": self.prompt_name}
        return prompt_for(roles, suffix)


class EmbeddingsRequest(RoleOptions):
    """Texts to embed, as OpenAI's clients and those that follow them send them."""

    input: wire.OneOrMoreTexts
    encoding_format: Annotated[Literal["float", "base64"] | None, one_of("float", "base64")] = None
    output_dtype: Annotated[Literal["float"] | None, one_of("float")] = None

    fits = staticmethod(lambda body: body.get("input") is not None)
    error_style: ClassVar[ErrorStyle | None] = "openai"

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        model, suffix = context.resolve_model(self.model)
        as_base64 = self.encoding_format == "base64"

        def build_body(answer: Answer) -> dict[str, Any]:
            rows = map(encode_base64, answer.vectors) if as_base64 else answer.vectors
            tokens = sum(answer.tokens)
            return {
                "id": token_hex(16),  # Mistral's clients insist on one
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": row}
                    for i, row in enumerate(rows)
                ],
                "model": model,
                "usage": {
                    "prompt_tokens": tokens,
                    "total_tokens": tokens,
                    "tokens": answer.tokens,
                    "truncated": answer.truncated,
                },
            }

        dimensions = self.first_given("dimensions", "output_dimension")
        return self.embedding_request(
            self.input, "input", self.prompt(suffix), build_body, dimensions
        )


def model_list(model_names: ModelNames) -> dict[str, Any]:
    """`GET /v1/models`. Cohere's clients read `models`."""
    cards = [model_card(name) for name in model_names.names]
    return {"object": "list", "data": cards, "models": cards}


def model_card(name: str) -> dict[str, Any]:
    """`GET /v1/models/{name}`, for a name of the model."""
    openai = {"id": name, "object": "model", "created": 0, "owned_by": "e5"}
    cohere = {"name": name, "endpoints": ["embed", "rerank"]}
    mistral: dict[str, Any] = {"type": "base", "capabilities": {}}
    return openai | cohere | mistral
