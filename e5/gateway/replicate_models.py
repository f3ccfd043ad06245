"""Replicate's routes beside new predictions: models, versions, deployments, recent predictions.

The OWNER in the name of a model or a deployment may be anybody.
"""

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from typing_extensions import TypedDict

from e5.gateway.body import json_pieces, json_response
from e5.gateway.model_names import ModelNames
from e5.gateway.openai import ModelCard, model_card
from e5.gateway.replicate_route import KeptPredictions, ReplicatePrediction
from e5.gateway.routes import GetRoute

_EPOCH = "1970-01-01T00:00:00Z"  # when a model was made is not known
# Replicate's Python client reads the answers of versions before 0.3.9 in another way.
COG_VERSION = "0.23.1"
INPUTS_AND_OUTPUT = {"Input": {"type": "object"}, "Output": {"type": "object"}}

ModelVersion = TypedDict(
    "ModelVersion",
    {"id": str, "created_at": str, "cog_version": str, "openapi_schema": dict[str, Any]},
)
VersionList = TypedDict(
    "VersionList", {"results": list[ModelVersion], "next": None, "previous": None}
)
Deployment = TypedDict("Deployment", {"owner": str, "name": str, "current_release": None})


class OwnedModel(ModelCard):
    """A model under the name OWNER/NAME: OpenAI's fields, and Replicate's."""

    url: str
    owner: str
    name: str
    description: str
    visibility: Literal["private"]
    run_count: int
    latest_version: ModelVersion


def owned_model(name: str, model_names: ModelNames) -> dict[str, Any]:
    """`GET /v1/models/{name}`: OpenAI's fields and, for OWNER/NAME, Replicate's.

    Raises:
        RefusalError: 404 for a model that is not served.
    """
    owner, short_name = _owner_and_name(name, model_names)
    if not owner:
        return model_card(name)
    return model_card(name) | {
        "url": f"/v1/models/{name}",
        "owner": owner,
        "name": short_name,
        "description": "Embeds queries and documents.",
        "visibility": "private",
        "run_count": 0,
        "latest_version": _version(model_names.fingerprint),
    }


def replicate_get_routes(model_names: ModelNames, predictions: KeptPredictions) -> list[GetRoute]:
    """The routes of Replicate that read no body."""

    async def show_version(request: Request) -> Response:
        _owner_and_name(request.path_params["name"], model_names)
        model_names.check_fingerprint(request.path_params["version"])
        return json_response(_version(request.path_params["version"]))

    async def list_versions(request: Request) -> Response:
        _owner_and_name(request.path_params["name"], model_names)
        results = [_version(model_names.fingerprint)]
        return json_response({"results": results, "next": None, "previous": None})

    async def show_deployment(request: Request) -> Response:
        owner, name = _owner_and_name(request.path_params["name"], model_names)
        return json_response({"owner": owner, "name": name, "current_release": None})

    async def show_prediction(request: Request) -> Response:
        prediction = predictions.find(request.path_params["id"])
        return StreamingResponse(json_pieces(prediction), media_type="application/json")

    version = "Describes a version of the model.", ModelVersion, show_version, (404,)
    versions = "Lists the versions of the model: one.", VersionList, list_versions, (404,)
    kept = ReplicatePrediction, show_prediction, (401, 404, 429), False
    return [
        GetRoute("/v1/models/{name:path}/versions/{version}", *version),
        GetRoute("/models/{name:path}/versions/{version}", *version),
        GetRoute("/v1/models/{name:path}/versions", *versions),
        GetRoute("/models/{name:path}/versions", *versions),
        GetRoute(
            "/deployments/{name:path}",
            "Describes a deployment of the model.",
            Deployment,
            show_deployment,
            (404,),
        ),
        GetRoute("/predictions/{id}", "Shows a recent prediction.", *kept, "GET", "replicate"),
        GetRoute(
            "/predictions/{id}/cancel",
            "Shows the prediction, which has ended.",
            *kept,
            "POST",
            "replicate",
        ),
    ]


def _owner_and_name(name: str, model_names: ModelNames) -> tuple[str, str]:
    owner, _, short_name = model_names.resolve(name, any_owner=True)[0].rpartition("/")
    return owner, short_name


def _version(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "created_at": _EPOCH,
        "cog_version": COG_VERSION,
        "openapi_schema": {"components": {"schemas": INPUTS_AND_OUTPUT}},
    }
