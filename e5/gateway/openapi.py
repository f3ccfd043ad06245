"""The description at `/openapi.json`, in OpenAPI 3.1, from the table of routes and its models."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from e5.gateway.keys import KEY_HEADERS, KEY_PARAMETER
from e5.gateway.routes import GetRoute, PostRoute
from e5.gateway.wire import InformationRequest

Schema: TypeAlias = dict[str, Any]
SchemaOf: TypeAlias = Callable[[Any], Schema]

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
POST_STATUSES = (400, 401, 404, 405, 413, 415, *BACKEND_STATUSES)
REFUSAL_HEADERS = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After"}
ANSWER_HEADERS: Mapping[str, str] = {
    "x-e5-prompt": "The prompt of the texts: `query` or `symmetric` with the instruction, "
    "`document` for none, `own` for texts that bring their prompt. Then come the first text whose "
    "prompt was `repaired`, and the first that `begins like a prompt` but has none.",
    "x-e5-model": "The name and fingerprint of the model that computed the vectors.",
    "x-e5-truncated": "How many texts were truncated, of how many: `0/2`.",
    "x-ratelimit-limit-requests": "How many requests are answered at the same time.",
    "x-ratelimit-limit-tokens": "How many tokens may wait.",
    "x-ratelimit-remaining-requests": "How many more requests would be taken now.",
    "x-ratelimit-remaining-tokens": "How many more tokens may wait now.",
    "x-ratelimit-reset-requests": "After how many seconds more requests may be taken: `1s`.",
    "x-ratelimit-reset-tokens": "After how many seconds more tokens may wait: `1s`.",
}
ID_HEADER = {"x-request-id": "The caller's own id of the request, or a new one."}
SECURITY_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {"type": "http", "scheme": "token"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
    **{name: {"type": "apiKey", "in": "header", "name": name} for name in KEY_HEADERS},
    "parameter": {"type": "apiKey", "in": "query", "name": KEY_PARAMETER},
}
ABOUT = (
    "One model behind the routes of OpenAI, Cohere, Voyage, NVIDIA, Jina, Ollama, Google, Mistral, "
    "Hugging Face and text-embeddings-inference. What a text is for decides its prompt: see Role."
)


ErrorObject = TypedDict(
    "ErrorObject", {"message": str, "type": str, "code": str, "param": str | None}
)
GoogleErrorObject = TypedDict("GoogleErrorObject", {"code": int, "message": str, "status": str})
_OF_ERROR = (
    "The sentence on the routes of text-embeddings-inference, Hugging Face, Ollama, Cog and "
    "Replicate and of Weaviate's containers; an object on the others."
)
Refusal = TypedDict(
    "Refusal",
    {
        "error": Annotated[str | ErrorObject | GoogleErrorObject, Field(description=_OF_ERROR)],
        "error_type": str,
        "message": str,
        "detail": str,
    },
)


class _Generator(GenerateJsonSchema):
    """Pydantic's schemas in the order of declaration, and without titles that repeat names.

    Schemathesis makes lists of 2,048 texts of a million characters where `items` comes before
    `type`, as it does in alphabetical order.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def sort(self, value: Any, parent_key: str | None = None) -> Any:  # noqa: ARG002
        return value


def description(
    post_routes: Sequence[PostRoute], get_routes: Sequence[GetRoute], *, dimensions: int
) -> Schema:
    """The OpenAPI document.

    Args:
        post_routes: the routes that read a request from the body.
        get_routes: all others.
        dimensions: the number of dimensions of a whole vector.

    Example:
        >>> from e5.gateway.routes import POST_ROUTES
        >>> list(description(POST_ROUTES, [], dimensions=4096)["paths"]["/"])
        ['post']
    """
    types = [Refusal, *(route.answer for route in get_routes)]
    types += [kind for route in post_routes for kind in (route.answer, *route.requests)]
    schema_of, schemas = _schemas(types)
    schemas["Dimensions"]["maximum"] = dimensions
    paths: dict[str, Schema] = {}
    for get_route in get_routes:
        methods = paths.setdefault(_template(get_route.path), {})
        methods[get_route.method.lower()] = _get(get_route, schema_of)
    for route in post_routes:
        paths.setdefault(_template(route.path), {})["post"] = _post(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "E5-Mistral gateway", "version": "1", "description": ABOUT},
        "servers": [{"url": "."}],  # the folder of this document, wherever a proxy puts it
        # Keys are the operator's choice.
        "security": [{}, *({name: []} for name in SECURITY_SCHEMES)],
        "paths": paths,
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "headers": {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in (*ANSWER_HEADERS.items(), *ID_HEADER.items())
            },
            "responses": {str(s): _refusal(s, schema_of(Refusal)) for s in DESCRIPTIONS_BY_STATUS},
            "schemas": schemas,
        },
    }


def _schemas(types: Sequence[Any]) -> tuple[SchemaOf, dict[str, Schema]]:
    """How to get the schema of each of these types, and the schemas that these refer to."""
    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (str(kind), "validation", TypeAdapter(kind)) for kind in types if not isinstance(kind, str)
    ]
    schemas, definitions = TypeAdapter.json_schemas(
        adapters, ref_template="#/components/schemas/{model}", schema_generator=_Generator
    )
    return lambda kind: schemas[str(kind), "validation"], definitions["$defs"]


def _template(path: str) -> str:
    """A path as OpenAPI writes it: `/models/{name}` for Starlette's `/models/{name:path}`."""
    return path.replace(":path}", "}")


def _parameters(path: str) -> list[Schema]:
    schema = {"type": "string", "minLength": 1}
    names = re.findall(r"{(\w+)", path)
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _post(route: PostRoute, schema_of: SchemaOf) -> Schema:
    requests = [schema_of(request) for request in route.requests]
    body = requests[0] if len(requests) == 1 else {"anyOf": requests}
    without_vectors = any(issubclass(it, InformationRequest) for it in route.requests)
    answer = {
        "description": "The answer.",
        "headers": _headers(*(() if without_vectors else ANSWER_HEADERS)),
        "content": _json(schema_of(route.answer)),
    }
    return {
        "summary": route.summary,
        "parameters": _parameters(route.path),
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"200": answer, **_refusals(*POST_STATUSES)},
    }


def _get(route: GetRoute, schema_of: SchemaOf) -> Schema:
    kind = route.answer
    content = {kind: {}} if isinstance(kind, str) else _json(schema_of(kind))
    answer = {"description": "The answer.", "headers": _headers(), "content": content}
    return {
        "summary": route.summary,
        "parameters": _parameters(route.path),
        "responses": {"200": answer, **_refusals(405, *route.refusals)},
    }


def _refusals(*statuses: int) -> Schema:
    return {str(s): {"$ref": f"#/components/responses/{s}"} for s in sorted(statuses)}


def _refusal(status: int, schema: Schema) -> Schema:
    headers = _headers()
    if status in REFUSAL_HEADERS:
        headers[REFUSAL_HEADERS[status]] = {"required": True, "schema": {"type": "string"}}
    text = DESCRIPTIONS_BY_STATUS[status]
    return {"description": text, "headers": headers, "content": _json(schema)}


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, *ID_HEADER)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
