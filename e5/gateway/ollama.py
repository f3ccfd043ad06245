"""Ollama's routes: embed, its older form, and those that describe models.

Ollama's names of models have a tag: `e5-mini:latest`. Its clients load a model by a request without
a text, which is answered without a vector.
"""

from typing import Any

from typing_extensions import TypedDict

from e5.errors import InputError
from e5.gateway import wire
from e5.gateway.backend import Backend, BackendInfo
from e5.gateway.client_request import BuildBody, ClientRequest
from e5.gateway.model_names import LATEST, ModelNames
from e5.gateway.roles import prompt_for
from e5.gateway.wire import InformationRequest, RouteContext
from e5.serving import Answer

OLLAMA_VERSION = "0.17.0"  # whose answers these are; some clients refuse old ones
ARCHITECTURE = "mistral"
BEFORE_ALL_TIME = "1970-01-01T00:00:00Z"  # clients of typed languages need times

OllamaEmbedAnswer = TypedDict(
    "OllamaEmbedAnswer", {"model": str, "embeddings": list[list[float]], "prompt_eval_count": int}
)
OllamaEmbeddingAnswer = TypedDict("OllamaEmbeddingAnswer", {"embedding": list[float]})
OllamaVersion = TypedDict("OllamaVersion", {"version": str})
OllamaModel = TypedDict(
    "OllamaModel",
    {"name": str, "model": str, "modified_at": str, "size": int, "digest": str, "details": Any},
)
OllamaModels = TypedDict("OllamaModels", {"models": list[OllamaModel]})
OllamaShowAnswer = TypedDict(
    "OllamaShowAnswer",
    {"capabilities": list[str], "details": Any, "model_info": dict[str, Any], "modified_at": str},
)


class OllamaOptions(wire.EmbedOptions):
    """The options beside a text. Ollama's `options` and `keep_alive` say nothing of vectors."""

    model: str | None = None

    def request_for(
        self, inputs: str | list[Any], field: str, suffix: str, build_body: BuildBody
    ) -> ClientRequest:
        """The request to embed what a field holds. Raises as `WireRequest.client_request`."""
        prompt = prompt_for({"prompt_name": self.prompt_name}, suffix)
        dimensions = "dimensions", self.dimensions
        return self.embedding_request(inputs, field, prompt, build_body, dimensions)


class OllamaTextsRequest(OllamaOptions):
    """Texts to embed."""

    input: wire.OneOrMoreTexts

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        name, suffix = context.resolve_model(self.model)

        def build_body(answer: Answer) -> dict[str, Any]:
            tokens = sum(answer.tokens)
            return {"model": name, "embeddings": list(answer.vectors), "prompt_eval_count": tokens}

        return self.request_for(self.input, "input", suffix, build_body)


class OllamaPromptRequest(OllamaOptions):
    """One text to embed, in the older form."""

    prompt: wire.Text

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`. The vector has length 1, as that of the newer form."""
        _, suffix = context.resolve_model(self.model)

        def build_body(answer: Answer) -> dict[str, Any]:
            return {"embedding": answer.vectors[0]}

        return self.request_for(self.prompt, "prompt", suffix, build_body)


class OllamaLoadRequest(InformationRequest):
    """A request without a text, by which clients have Ollama load a model."""

    model: str | None = None

    fits = staticmethod(
        lambda body: all(body.get(field) in (None, "", []) for field in ("input", "prompt"))
    )

    async def information(self, context: RouteContext, backend: Backend) -> Any:  # noqa: ARG002
        """See `InformationRequest.information`. The model is loaded; there is no vector."""
        name, _ = context.resolve_model(self.model)
        if context.path == "/api/embeddings":
            return {"embedding": []}
        return {"model": name, "embeddings": [], "prompt_eval_count": 0}


class OllamaShowRequest(InformationRequest):
    """The name of a model to describe."""

    model: str | None = None
    name: str | None = None

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`."""
        _, name = self.first_given("model", "name")
        if not name:
            raise InputError("model", "nothing", "send it")
        context.resolve_model(name)
        info = await backend.info()
        return {
            "capabilities": ["embedding"],
            "details": _details(),
            "model_info": {
                "general.architecture": ARCHITECTURE,
                f"{ARCHITECTURE}.context_length": info.max_length,
                f"{ARCHITECTURE}.embedding_length": info.dimensions,
            },
            "modified_at": BEFORE_ALL_TIME,
        }


def ollama_models(model_names: ModelNames, info: BackendInfo) -> dict[str, Any]:
    """`GET /api/tags` and `/api/ps`: all names of the one model, which is loaded."""
    name, _, fingerprint = info.name.partition("@")
    about = {
        "modified_at": BEFORE_ALL_TIME,
        "expires_at": "9999-12-31T23:59:59Z",
        "size": 0,
        "size_vram": 0,
        "context_length": info.max_length,
        "digest": fingerprint or name,
        "details": _details(),
    }
    names = [name + LATEST for name in model_names.names]
    return {"models": [{"name": name, "model": name, **about} for name in names]}


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": ARCHITECTURE,
        "families": [ARCHITECTURE],
        "parameter_size": "",
        "quantization_level": "",
    }
