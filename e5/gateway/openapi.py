"""What `GET /openapi.json` says: the routes, as OpenAPI 3.1, from their table and their models."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from e5.gateway.routes import GetRoute, PostRoute

Schema = dict[str, Any]
Models = Mapping[type[BaseModel], Schema]

DESCRIPTIONS_BY_STATUS: Mapping[int, str] = {
    400: "A field is wrong, or a text has no vector. The sentence names it.",
    401: "The key is missing or wrong.",
    404: "There is no such model or route.",
    405: "The route does not take this method.",
    413: "The body or its number of tokens is too large.",
    415: "The body is not plain application/json.",
    429: "Too many requests or tokens wait; try again after Retry-After seconds.",
    502: "The backend failed.",
    503: "The backend cannot be reached, or the gateway is stopping.",
    504: "There was no answer in time.",
}
BACKEND_STATUSES = (429, 502, 503, 504)
REFUSAL_HEADERS = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After"}
ANSWER_HEADERS: Mapping[str, str] = {
    "x-e5-prompt": "What was put before the texts: `query` or `symmetric` with the instruction, "
    "`document` for nothing, `own` for texts that bring it.",
    "x-e5-model": "The name and fingerprint of the model that computed the vectors.",
    "x-e5-truncated": "How many texts were truncated, of how many: `0/2`.",
}
ID_HEADER = {"x-request-id": "The caller's own id of the request, or a new one."}
ABOUT = (
    "One model behind the routes of OpenAI, Cohere, Voyage, NVIDIA, Jina and "
    "text-embeddings-inference. What a text is for decides its prompt: see Role."
)


class ErrorObject(BaseModel):
    """A refusal in OpenAI's form."""

    message: str
    type: str
    code: str
    param: str | None


class Refusal(BaseModel):
    """Why a request was refused, in one sentence that stands wherever a client looks for it.

    `error` is the sentence on the routes of text-embeddings-inference and Cog, else an object.
    """

    error: str | ErrorObject
    error_type: str
    message: str
    detail: str


class _Generator(GenerateJsonSchema):
    """Pydantic's schemas without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def description(
    post_routes: Sequence[PostRoute], get_routes: Sequence[GetRoute], *, dimensions: int
) -> Schema:
    """The OpenAPI document.

    Args:
        post_routes: the routes that compute.
        get_routes: all others.
        dimensions: the number of dimensions of a whole vector.

    Example:
        >>> from e5.gateway.routes import POST_ROUTES
        >>> list(description(POST_ROUTES, [], dimensions=4096)["paths"]["/"])
        ['post']
    """
    refs, schemas = _schemas(post_routes, get_routes)
    schemas["Dimensions"]["maximum"] = dimensions
    paths: dict[str, Schema] = {}
    for route in get_routes:
        paths.setdefault(route.path.replace(":path}", "}"), {})["get"] = _get(route, refs)
    for route in post_routes:
        paths.setdefault(route.path, {})["post"] = _post(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "E5-Mistral gateway", "version": "1", "description": ABOUT},
        "security": [{}, {"bearer": []}, {"key": []}],  # keys are the operator's choice
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "headers": {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in (ANSWER_HEADERS | ID_HEADER).items()
            },
            "responses": {str(status): _refusal(status, refs) for status in DESCRIPTIONS_BY_STATUS},
            "schemas": schemas,
        },
    }


def _schemas(
    post_routes: Sequence[PostRoute], get_routes: Sequence[GetRoute]
) -> tuple[Models, dict[str, Schema]]:
    """A reference to each model's schema, and the schemas by name."""
    models: dict[type[BaseModel], None] = {Refusal: None}
    for route in post_routes:
        models |= dict.fromkeys((*route.requests, *route.answers))
    models |= {route.answer: None for route in get_routes if not isinstance(route.answer, str)}
    mode: Literal["validation"] = "validation"
    refs, definitions = models_json_schema(
        [(model, mode) for model in models],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Generator,
    )
    return {model: refs[model, mode] for model in models}, definitions["$defs"]


def _post(route: PostRoute, refs: Models) -> Schema:
    answer = {
        "description": "The answer.",
        "headers": _headers(*ANSWER_HEADERS),
        "content": _json(refs, route.answers),
    }
    return {
        "summary": route.summary,
        "requestBody": {"required": True, "content": _json(refs, route.requests)},
        "responses": {
            "200": answer,
            **_refusals(400, 401, 404, 405, 413, 415, *BACKEND_STATUSES),
        },
    }


def _get(route: GetRoute, refs: Models) -> Schema:
    is_json = not isinstance(route.answer, str)
    content = _json(refs, [route.answer]) if is_json else {route.answer: {}}
    answer = {"description": "The answer.", "headers": _headers(), "content": content}
    name = {"in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "summary": route.summary,
        "parameters": [{"name": "name", **name}] if "{name" in route.path else [],
        "responses": {"200": answer, **_refusals(405, *route.refusals)},
    }


def _refusals(*statuses: int) -> Schema:
    return {str(s): {"$ref": f"#/components/responses/{s}"} for s in sorted(statuses)}


def _refusal(status: int, refs: Models) -> Schema:
    headers = _headers()
    if status in REFUSAL_HEADERS:
        headers[REFUSAL_HEADERS[status]] = {"required": True, "schema": {"type": "string"}}
    return {
        "description": DESCRIPTIONS_BY_STATUS[status],
        "headers": headers,
        "content": _json(refs, [Refusal]),
    }


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, *ID_HEADER)}


def _json(refs: Models, models: Iterable[type[BaseModel]]) -> Schema:
    """JSON that is of one of these models."""
    schemas = [refs[model] for model in models]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
