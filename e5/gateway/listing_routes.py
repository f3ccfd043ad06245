"""The routes that clients of Ollama, Google and Cohere ask before they send texts.

They tell the names of the model, a version, and whether a key is right.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from e5.gateway.backend import Backend
from e5.gateway.body import to_json
from e5.gateway.google import GoogleModel, GoogleModels, google_model
from e5.gateway.model_names import ModelNames
from e5.gateway.ollama import OLLAMA_VERSION, OllamaModels, OllamaVersion, ollama_models
from e5.gateway.openapi import BACKEND_STATUSES
from e5.gateway.routes import GetRoute

KeyAnswer = TypedDict("KeyAnswer", {"valid": bool})


def listing_get_routes(model_names: ModelNames, backend: Backend) -> list[GetRoute]:
    """All of them."""

    async def list_for_ollama(_: Request) -> Response:
        return _json(ollama_models(model_names, await backend.info()))

    async def tell_version(_: Request) -> Response:
        return _json({"version": OLLAMA_VERSION})

    async def list_for_google(_: Request) -> Response:
        info = await backend.info()
        return _json({"models": [google_model(name, info) for name in model_names.names]})

    async def show_to_google(request: Request) -> Response:
        name, _ = model_names.resolve(request.path_params["name"])
        return _json(google_model(name, await backend.info()))

    async def accept_key(_: Request) -> Response:
        return _json({"valid": True})  # the guard has let it in

    ollama = OllamaModels, list_for_ollama, BACKEND_STATUSES
    google = GoogleModels, list_for_google, BACKEND_STATUSES
    one_of_google = GoogleModel, show_to_google, (404, *BACKEND_STATUSES)
    key = KeyAnswer, accept_key, (401, 429), False, "POST"
    return [
        GetRoute("/api/tags", "Lists the names of the model for Ollama's clients.", *ollama),
        GetRoute("/api/ps", "Lists them as /api/tags does.", *ollama),
        GetRoute(
            "/api/version", "Says which Ollama's answers these are.", OllamaVersion, tell_version
        ),
        GetRoute("/v1beta/models", "Lists the names for Google's clients.", *google),
        GetRoute("/v1beta/models/{name:path}", "Shows one name to them.", *one_of_google),
        GetRoute("/check-api-key", "Says to Cohere's clients that the key is right.", *key),
    ]


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")
