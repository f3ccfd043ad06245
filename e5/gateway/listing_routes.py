"""The routes that clients ask before they send texts: which model is served, and is a key right."""

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from e5.gateway.backend import Backend
from e5.gateway.body import json_response
from e5.gateway.google import GoogleModel, GoogleModels, google_model
from e5.gateway.model_names import ModelNames
from e5.gateway.ollama import OLLAMA_VERSION, OllamaModels, OllamaVersion, ollama_models
from e5.gateway.openai import ModelCard, ModelList, model_list
from e5.gateway.openapi import BACKEND_STATUSES
from e5.gateway.replicate_models import OwnedModel, owned_model
from e5.gateway.routes import GetRoute
from e5.gateway.tei import InfoAnswer, info
from e5.gateway.weaviate import MetaAnswer, meta

KeyAnswer = TypedDict("KeyAnswer", {"valid": bool})


def listing_get_routes(
    model_names: ModelNames, backend: Backend, *, max_requests: int
) -> list[GetRoute]:
    """All of these routes; `max_requests` are answered at the same time."""

    async def list_models(_: Request) -> Response:
        return json_response(model_list(model_names))

    async def show_model(request: Request) -> Response:
        return json_response(owned_model(request.path_params["name"], model_names))

    async def show_info(_: Request) -> Response:
        return json_response(info(await backend.info(), max_requests=max_requests))

    async def show_meta(_: Request) -> Response:
        return json_response(meta(await backend.info()))

    async def list_for_ollama(_: Request) -> Response:
        return json_response(ollama_models(model_names, await backend.info()))

    async def show_version(_: Request) -> Response:
        return json_response({"version": OLLAMA_VERSION})

    async def list_for_google(_: Request) -> Response:
        served = await backend.info()
        return json_response({"models": [google_model(name, served) for name in model_names.names]})

    async def show_to_google(request: Request) -> Response:
        name, _ = model_names.resolve(request.path_params["name"])
        return json_response(google_model(name, await backend.info()))

    async def accept_key(_: Request) -> Response:
        return json_response({"valid": True})  # the guard has let it in

    models = ModelList, list_models
    one_model = ModelCard | OwnedModel, show_model, (404,)
    tei = InfoAnswer, show_info, BACKEND_STATUSES
    weaviate = MetaAnswer, show_meta, BACKEND_STATUSES
    ollama = OllamaModels, list_for_ollama, BACKEND_STATUSES
    google = GoogleModels, list_for_google, BACKEND_STATUSES
    one_of_google = GoogleModel, show_to_google, (404, *BACKEND_STATUSES)
    key = KeyAnswer, accept_key, (401, 429), False, "POST"
    return [
        GetRoute("/v1/models", "Lists the model's names.", *models),
        GetRoute("/models", "Lists the model's names as /v1/models does.", *models),
        GetRoute("/v1/models/{name:path}", "Describes the model by one of its names.", *one_model),
        GetRoute("/models/{name:path}", "Describes the model as /v1/models/NAME.", *one_model),
        GetRoute("/api/tags", "Lists the model's names for Ollama's clients.", *ollama),
        GetRoute("/api/ps", "Lists the model's names as /api/tags does.", *ollama),
        GetRoute("/api/version", "Gives the version of Ollama's API.", OllamaVersion, show_version),
        GetRoute("/v1beta/models", "Lists the model's names for Google's clients.", *google),
        GetRoute(
            "/v1beta/models/{name:path}",
            "Describes the model for Google's clients.",
            *one_of_google,
        ),
        GetRoute("/check-api-key", "Says to Cohere's clients that the key is right.", *key),
        GetRoute(
            "/deployments/{name:path}/models",
            "Lists the model's names for Azure's clients.",
            *models,
            (404,),
        ),
        GetRoute("/info", "Describes the model as text-embeddings-inference does.", *tei),
        GetRoute("/meta", "Describes the model for Weaviate.", *weaviate),
    ]
