"""What `GET /openapi.json` says: every route, its fields, answers, refusals and headers.

Written by hand and held to the routes by a test. null stands for a field that is absent, and fields
that are not named here are ignored, as everywhere in the gateway. Knows nothing of how a route is
served.
"""

from collections.abc import Mapping
from typing import Any

from e5.gateway.cohere import TYPES
from e5.gateway.search_route import MAX_TOP
from e5.serving.request import MAX_TEXTS
from e5.texts import MAX_CHARACTERS, MAX_TASK

Schema = dict[str, Any]

REFUSALS: Mapping[int, str] = {
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
OF_BACKEND = (429, 502, 503, 504)
OF_BODY = (400, 401, 413, 415, *OF_BACKEND)
HEADERS: Mapping[str, str] = {
    "x-e5-prompt": "What was put before the texts: `query` or `symmetric` with the instruction, "
    "`document` for nothing, `own` for texts that bring it.",
    "x-e5-model": "Name and fingerprint of what computed the vectors.",
    "x-e5-truncated": "How many texts were cut, of how many: `0/2`.",
}


# Of each route: what it does, and the names of what it takes, `{name}Request` -> `{name}Answer`.
COMPUTED: Mapping[str, tuple[str, ...]] = {
    "/v1/embeddings": ("Embeddings of OpenAI, Voyage, NVIDIA and Jina.", "Embeddings"),
    "/embeddings": ("The same.", "Embeddings"),
    "/v1/embed": ("Cohere's embed, version 1.", "CohereEmbed1"),
    "/v2/embed": ("Cohere's embed, version 2.", "CohereEmbed2"),
    "/v1/rerank": ("Rerank of Cohere and Jina. A score is the cosine.", "Rerank"),
    "/v2/rerank": ("Cohere's rerank, version 2.", "Rerank"),
    "/rerank": ("Rerank of text-embeddings-inference or of Voyage.", "Ranks", "Rerank"),
    "/embed": ("Embed of text-embeddings-inference.", "Embed"),
    "/similarity": ("Cosines of one sentence with others.", "Similarity"),
    "/": ("Embed or similarity, for Hugging Face's clients.", "Embed", "Similarity"),
    "/predictions": ("Cog's own, as the model's server has it.", "Prediction"),
}
# Of each route: what it does, a schema's name or the type of what is no JSON, and its refusals.
TOLD: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "/": ("The page for people.", "text/html", ()),
    "/v1/models": ("The names of the model.", "ModelList", ()),
    "/models": ("The same.", "ModelList", ()),
    "/v1/models/{name}": ("One name.", "Model", (404,)),
    "/models/{name}": ("The same.", "Model", (404,)),
    "/info": ("What is served, as text-embeddings-inference tells it.", "Info", OF_BACKEND),
    "/health": ("It lives.", "Status", ()),
    "/ready": ("It can answer now.", "Status", (503,)),
    "/health-check": ("`/ready` in Cog's words.", "Status", ()),
    "/metrics": ("Counters for Prometheus.", "text/plain", (401, 429)),
    "/openapi.json": ("This document.", "Document", ()),
}


def description(dimensions: int, *, with_search: bool) -> Schema:
    """An OpenAPI 3.1 document.

    Args:
        dimensions: of a whole vector.
        with_search: whether there is `POST /search`.

    Example:
        >>> sorted(description(4096, with_search=False)["paths"]["/"])
        ['get', 'post']
    """
    paths: dict[str, Schema] = {path: {"get": _get(path)} for path in TOLD}
    for path, (summary, *names) in COMPUTED.items():
        paths.setdefault(path, {})["post"] = _post(summary, *names)
    if with_search:
        paths["/search"] = {"post": _post("The documents nearest to a query.", "Search")}
    headers = {**HEADERS, "x-request-id": "The caller's own, or a new one."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "E5-Mistral gateway",
            "version": "1",
            "description": "One model behind the routes of OpenAI, Cohere, Voyage, NVIDIA, Jina "
            "and text-embeddings-inference. What a text is for decides its prompt: see Role.",
        },
        "security": [{}, {"bearer": []}, {"key": []}],  # keys are the operator's choice
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "headers": {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in headers.items()
            },
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "schemas": {**_requests(dimensions), **_answers()},
        },
    }


def _post(summary: str, *names: str) -> Schema:
    takes, gives = ([f"{name}{end}" for name in names] for end in ("Request", "Answer"))
    answer = {"description": "Done.", "headers": _headers(*HEADERS), "content": _json(*gives)}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(*takes)},
        "responses": {"200": answer, **_refusals(404, 405, *OF_BODY)},
    }


def _get(path: str) -> Schema:
    summary, kind, refusals = TOLD[path]
    content: Schema = {kind: {}} if "/" in kind else _json(kind)
    answer = {"description": "Told.", "headers": _headers(), "content": content}
    name = {"in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "summary": summary,
        "parameters": [{"name": "name", **name}] if "{name}" in path else [],
        "responses": {"200": answer, **_refusals(405, *refusals)},
    }


def _refusals(*statuses: int) -> Schema:
    return {str(s): {"$ref": f"#/components/responses/{s}"} for s in sorted(statuses)}


def _refusal(status: int) -> Schema:
    extra = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After"}
    headers = _headers()
    if status in extra:
        headers[extra[status]] = {"required": True, "schema": {"type": "string"}}
    return {"description": REFUSALS[status], "headers": headers, "content": _json("Error")}


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, "x-request-id")}


def _json(*names: str) -> Schema:
    """JSON of one of some schemas."""
    schemas = [_ref(name) for name in names]
    return {"application/json": {"schema": {"anyOf": schemas} if len(names) > 1 else schemas[0]}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(fields: Schema) -> Schema:
    """An object; the names of fields that it must have end in "!"."""
    return {
        "type": "object",
        "required": [name[:-1] for name in fields if name.endswith("!")],
        "properties": {name.removesuffix("!"): schema for name, schema in fields.items()},
    }


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _maybe(kind: str, **more: Any) -> Schema:
    """A field that may be null."""
    return {"type": [kind, "null"], **more}


def _requests(dimensions: int) -> Schema:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": r"\S"}
    some, fewer = ({"minItems": 1, "maxItems": MAX_TEXTS - less} for less in (0, 1))
    texts, one_or_more = _list(text, **some), {"anyOf": [text, _list(text, **some)]}
    name, flag, count = _maybe("string"), _maybe("boolean"), _maybe("integer", minimum=1)
    size = _maybe("integer", minimum=1, maximum=dimensions)
    role, truncate = _ref("Role"), {"enum": ["NONE", "END", "none", "end", True, False, None]}
    roles = {"input_type": role, "task": role, "prompt_name": role}
    usual: Schema = {"normalize": flag, "dimensions": size, "truncate": truncate}
    openai = usual | roles | {"model": name, "output_dimension": size, "truncation": flag}
    openai |= {"encoding_format": {"enum": ["float", "base64", None]}}
    types = _maybe("array", items={"enum": list(TYPES)}, minItems=1)
    cohere = usual | roles | {"model": name, "output_dimension": size, "embedding_types": types}
    content = _object({"content!": _list(_object({"text!": text}), minItems=1)})
    documents = _list({"anyOf": [text, _object({"text!": text})]}, **fewer)
    rerank: Schema = {"query!": text, "documents!": documents, "model": name}
    rerank |= {"top_n": count, "top_k": count, "return_documents": flag, "truncation": flag}
    cut: Schema = {"truncate": truncate, "truncation_direction": {"enum": ["Right", "right", None]}}
    tei = cut | {"prompt_name": role}
    embed = usual | tei | {"encoding_format": {"enum": ["float", None]}}
    inputs: Schema = {"inputs!": one_or_more}
    pair = _object({"source_sentence!": text, "sentences!": _list(text, **fewer)})
    ranks: Schema = {"query!": text, "texts!": _list(text, **fewer)} | cut
    top = _maybe("integer", minimum=1, maximum=MAX_TOP)
    return {
        "Role": {
            "type": ["string", "null"],
            "description": "What the texts are for: query, search_query or retrieval.query; "
            "passage, document, search_document or retrieval.passage; classification, clustering, "
            "text-matching, separation or semantic_similarity; the name of a registered task, or "
            "an instruction of more than one word. Two fields must not contradict each other. "
            "Absent: document, or what the ending of the model's name says (-query, -passage).",
        },
        "EmbeddingsRequest": _object({"input!": one_or_more} | openai),
        "CohereEmbed1Request": _object({"texts!": texts} | cohere),
        "CohereEmbed2Request": {
            "anyOf": [
                _object({"texts!": texts} | cohere),
                _object({"inputs!": _list(content, **some)} | cohere),
            ]
        },
        "RerankRequest": _object(rerank | {"task": role, "instruction": role}),
        "RanksRequest": _object(ranks | {"raw_scores": flag, "return_text": flag}),
        "EmbedRequest": {  # Hugging Face's clients put all but the texts into an object
            "anyOf": [
                _object(inputs | {"parameters": {"type": "null"}} | embed),
                _object(inputs | {"parameters!": {"type": "object", "properties": embed}}),
            ]
        },
        "SimilarityRequest": _object(
            {"inputs!": pair, "parameters": _maybe("object", properties=tei)}
        ),
        "PredictionRequest": _object({"input!": _prediction(text, size)}),
        "SearchRequest": _object({"query!": text, "task": role, "top": top}),
    }


def _prediction(text: Schema, size: Schema) -> Schema:
    """The inputs of predict.py, of which at least one holds a text."""
    texts = _list(text, maxItems=MAX_TEXTS)  # an empty one is as good as none
    inputs = {"query": text, "document": text, "queries": texts, "documents": texts}
    return {
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": [name]} for name in inputs],
        "properties": {
            name: {"anyOf": [schema, {"type": "null"}]} for name, schema in inputs.items()
        }
        | {name: _maybe("boolean") for name in ("symmetric", "normalize", "truncate")}
        | {
            "task": _maybe("string", maxLength=MAX_TASK),
            "dimensions": size,
            "encoding_format": {"enum": ["float", "base64", None]},
        },
    }


def _answers() -> Schema:
    string, number, integer = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    vector, a_list = _list(number), {"const": "list"}
    embedding = {"index!": integer, "embedding!": {"anyOf": [vector, string]}}
    tokens = {"prompt_tokens!": integer, "total_tokens!": integer}
    of_each = {"tokens!": _list(integer), "truncated!": _list({"type": "boolean"})}
    meta = _object({"billed_units!": _object({"input_tokens!": integer})})
    by_type = _object({kind: _list(string if kind == "base64" else vector) for kind in TYPES})
    cohere: Schema = {"id!": string, "response_type!": string, "texts!": _list(string)}
    cohere |= {"embeddings!": {"anyOf": [by_type, _list(vector)]}, "meta!": meta}
    ranked = _list(_object({"index!": integer, "relevance_score!": number}))
    reranked: Schema = {"id!": string, "results!": ranked, "data!": ranked, "meta!": meta}
    hits = _list(_object({"id!": string, "score!": number, "text!": string}))
    output = {"model!": string, "usage!": _object(of_each), "scores!": {}, "score!": {}}
    output = _object(output | {"embeddings!": {}, "embeddings_base64!": {}})
    model = _object({"id!": string, "object!": {"const": "model"}, "created!": integer})
    error = _object({"message!": string, "type!": string, "code!": string, "param!": {}})
    of_error = {
        "description": "The sentence on the routes of text-embeddings-inference; else an object.",
        "anyOf": [string, error],
    }
    refusal: Schema = {"error!": of_error, "error_type!": string, "message!": string}
    return {
        "EmbeddingsAnswer": _object(
            {
                "object!": a_list,
                "data!": _list(_object(embedding | {"object!": {"const": "embedding"}})),
                "model!": string,
                "usage!": _object(tokens | of_each),
            }
        ),
        "CohereEmbed1Answer": _object(cohere),
        "CohereEmbed2Answer": _object(cohere),
        "RerankAnswer": _object(reranked | {"model!": string, "usage!": _object(tokens)}),
        "PredictionAnswer": _object({"status!": {"const": "succeeded"}, "output!": output}),
        "RanksAnswer": _list(_object({"index!": integer, "score!": number, "text": string})),
        "EmbedAnswer": _list(vector),
        "SimilarityAnswer": vector,
        "SearchAnswer": _object({"hits!": hits, "model!": string, "usage!": {"type": "object"}}),
        "ModelList": _object({"object!": a_list, "data!": _list(model)}),
        "Model": model,
        "Info": _object({"model_id!": string, "max_input_length!": integer, "version!": string}),
        "Status": _object({"status!": string}),
        "Document": _object({"openapi!": string, "info!": {}, "paths!": {}}),
        "Error": _object(refusal | {"detail!": string}),
    }
