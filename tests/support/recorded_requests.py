"""Requests that published clients really sent, and what is right for each: an oracle.

It says which texts a body holds, what they are, where the vectors of the answer stand, and what is
refused with which words. It knows nothing of the gateway's code.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import numpy as np

RECORDS = Path(__file__).parents[1] / "gateway/recorded_requests.jsonl"
KEY = "the-key-of-this-test"
TASK = "Given a web search query, retrieve relevant passages that answer the query"
MOST_DIMENSIONS = 192  # of the built-in checkpoint
ROLE_FIELDS = ("input_type", "task", "prompt_name", "taskType", "task_type")


@dataclass(frozen=True)
class Recorded:
    """A request as a client sent it, or one that was made of it.

    Attributes:
        client: the client, with its version.
        method: of HTTP.
        path: with the query string.
        headers: with the key of this test.
        body: JSON; "" for none.
    """

    client: str
    method: str
    path: str
    headers: dict[str, str]
    body: str

    @property
    def route(self) -> str:
        """The path without the query string."""
        return unquote(self.path.partition("?")[0])

    @property
    def has_key(self) -> bool:
        """Whether the client sent a key."""
        return any(KEY in value for value in self.headers.values())

    @property
    def fields(self) -> dict[str, Any]:
        """The body as an object."""
        fields: dict[str, Any] = json.loads(self.body or "{}")
        return fields

    @property
    def model(self) -> str | None:
        """The model's name: that of the path, else that of the body."""
        found = re.search(r"/(?:deployments|models|feature-extraction)/([^/:]+)", self.route)
        named = found is not None and found[1] not in ("embeddings", "you")
        return found[1] if named and found is not None else self.fields.get("model")


def whole(text: str) -> str:
    """The text of a request, of which the record leaves out the middle of a long one."""
    return re.sub(r"\.\.\.\[(\d+) chars\]\.\.\.", lambda left: "7 " * (int(left[1]) // 2), text)


def read_records() -> Iterator[Recorded]:
    for line in RECORDS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        headers = {name: value.replace("KEY", KEY) for name, value in row["headers"].items()}
        yield Recorded(row["client"], row["method"], row["path"], headers, whole(row["body"]))


# What a request asks for


def parts_of(content: Any) -> str:
    """Cohere's and Google's texts in parts."""
    parts = content["content"] if "content" in content else content["parts"]
    return "\n".join(part["text"] for part in parts)


def texts_of(fields: dict[str, Any]) -> list[str] | None:
    """The texts to embed, in the order of their vectors; None if there is no list of texts."""
    if "requests" in fields:
        return [parts_of(request["content"]) for request in fields["requests"]]
    if "instances" in fields:
        return [instance["content"] for instance in fields["instances"]]
    if isinstance(fields.get("content"), dict):
        return [parts_of(fields["content"])]
    for name in ("texts", "input", "inputs", "prompt", "text"):
        value = fields.get(name)
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return [*value]
        if isinstance(value, list) and all(isinstance(part, dict) for part in value):
            return [parts_of(part) for part in value]
    if isinstance(fields.get("input"), dict):  # Cog's inputs
        inputs = fields["input"]
        one = [inputs[name] for name in ("query", "document") if name in inputs]
        return [*one, *inputs.get("queries", []), *inputs.get("documents", [])]
    return None


def role_of(request: Recorded) -> str:
    """`query`, `document` or `symmetric`, by all the words that clients have for it."""
    fields = request.fields
    first = {**fields, **fields.get("config", {})}
    for name in ("requests", "instances"):
        first |= fields.get(name, [{}])[0]
    if isinstance(fields.get("input"), dict):
        first["input_type"] = "query" if {"query", "queries"} & set(fields["input"]) else None
    words = [str(first[name]).lower() for name in ROLE_FIELDS if first.get(name)]
    words.append("query" if first.get("is_search_query") else "")
    words.append("query" if str(request.model).endswith("-query") else "")
    if any(word in ("classification", "clustering", "semantic_similarity") for word in words):
        return "symmetric"
    return "query" if any(word.endswith("query") for word in words) else "document"


def dimensions_of(fields: dict[str, Any]) -> int | None:
    places = [fields, fields.get("parameters", {}), fields.get("config", {})]
    places += fields.get("requests", [])
    names = ("dimensions", "output_dimension", "outputDimensionality")
    found = [place[name] for place in places for name in names if place.get(name) is not None]
    return found[0] if found else None


def meant_by(text: str) -> str:
    """The query in a text that brings its own prompt."""
    return text.removeprefix(f"Instruct: {TASK} Query:")


# What the answer says, as the client reads it


def numbers(value: Any) -> list[float]:
    """A vector as JSON numbers, or as base64 of little-endian float32."""
    if isinstance(value, str):
        return [float(number) for number in np.frombuffer(base64.b64decode(value), "<f4")]
    assert all(isinstance(number, int | float) for number in value)
    return list(value)


def vectors_of(request: Recorded, answer: Any) -> list[list[float]]:
    """The vectors of an answer, by the route that its client asks."""
    route, fields = request.route, request.fields
    if route == "/v1/embeddings/embed" or route == "/api/embed":
        return list(map(numbers, answer["embeddings"]))
    if route.endswith("/embeddings") and not route.startswith("/api/"):
        assert answer["object"] == "list"
        assert answer["model"]
        assert answer["usage"]["total_tokens"] >= answer["usage"]["prompt_tokens"] > 0
        assert answer["id"]
        assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
        rows = [row["embedding"] for row in answer["data"]]
        assert {type(row) for row in rows} == {as_base64(fields)}
        return list(map(numbers, rows))
    if route == "/api/embeddings":
        return [numbers(answer["embedding"])]
    if "texts" in fields or route in ("/v1/embed", "/v2/embed"):  # Cohere
        assert answer["id"]
        assert answer["meta"]["billed_units"]["input_tokens"] > 0
        is_flat = route == "/v1/embed" and "embedding_types" not in fields
        assert answer["response_type"] == f"embeddings_{'floats' if is_flat else 'by_type'}"
        return list(
            map(numbers, answer["embeddings"] if is_flat else answer["embeddings"]["float"])
        )
    if route.endswith(":batchEmbedContents"):
        return [numbers(row["values"]) for row in answer["embeddings"]]
    if route.endswith(":embedContent"):
        return [numbers(answer["embedding"]["values"])]
    if route.endswith(":predict"):
        return [numbers(row["embeddings"]["values"]) for row in answer["predictions"]]
    if route in ("/vectors", "/vectorize"):
        assert answer.get("error", "") == ""
        return [numbers(answer["vector"])]
    if route.endswith("/predictions"):
        assert (answer["status"], answer["error"]) == ("succeeded", None)
        assert answer["id"]
        return list(map(numbers, answer["output"]["embeddings"]))
    return list(map(numbers, answer))  # text-embeddings-inference and Hugging Face


def as_base64(fields: dict[str, Any]) -> type:
    """The type of a vector of OpenAI's, as JSON."""
    return str if fields.get("encoding_format") == "base64" else list


def sentence_shown(request: Recorded, response: httpx2.Response) -> str:
    """The sentence at the place where this client looks for it."""
    body, client, route = response.json(), request.client.lower(), request.route
    if "cohere" in client:
        sentence = body["message"]
    elif "voyage" in client or "replicate" in client:
        sentence = body["detail"]
    elif route in ("/", "/embed", "/similarity", "/rerank", "/vectors") or "/api/" in route:
        sentence = body["error"]
    elif "mistral" in client and "weaviate" not in client:
        assert body["object"] == "error"
        assert isinstance(body["type"], str)
        sentence = body["message"]
    else:
        sentence = body["error"]["message"]
        is_google = "/v1beta/" in route or "/projects/" in route
        assert body["error"]["code"] == (
            response.status_code if is_google else str(response.status_code)
        )
    assert isinstance(sentence, str)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


# What is refused, and with which words


def refusal_of(request: Recorded) -> tuple[int, str] | None:
    """The status, and what the sentence says; None for what is answered."""
    fields, route = request.fields, request.route
    routes = ("chat/completions", "contextualizedembeddings", "multimodalembeddings", "/nope")
    if route.endswith(routes) or route == "/v1":
        return 404, "no such"
    if route == "/predictions/x":
        return 404, "only the latest predictions are kept"
    if route == "/deployments/you/e5/predictions":
        return 404, 'received "you/e5"; send one of e5-mini, e5-mini-query'
    if "webhook" in fields:
        return 400, 'webhook: received "http://localhost/x"; leave it out'
    if request.model is not None and not is_served(request.model):
        return 404, f'received "{request.model}"; send one of e5-mini, e5-mini-query'
    if "version" in fields and "foo" in fields["input"]:
        return 400, "foo: received an unknown input; the inputs are "
    if fields.get("images"):
        return 400, "images: received images; send texts"
    if fields.get("prompt_name") == "nonsense":
        return 400, 'prompt_name: received "nonsense"; send one of'
    dimensions = dimensions_of(fields)
    if dimensions is not None and not 1 <= dimensions <= MOST_DIMENSIONS:
        return 400, rf"dimensions?: received {dimensions}; "
    if route == "/" and fields.get("encoding_format") == "base64":
        return 400, 'encoding_format: received "base64"; send '
    if route.endswith("/embeddings") and not {"input", "prompt"} & set(fields):
        return 400, "input: received nothing; send it"
    if (words := text_that_is_refused(fields)) is not None:
        return 400, words
    return None


def is_served(model: str) -> bool:
    name, *fingerprint = model.removeprefix("models/").split("@")
    return name in ("e5-mini", "e5-mini-query", "e5-mini-passage")[: 1 if fingerprint else 3]


def text_that_is_refused(fields: dict[str, Any]) -> str | None:
    value = fields.get("input")
    texts = [*(texts_of(fields) or []), *(fields.get("documents") or [])]
    if value == []:
        return "input: received no text; send at least one"
    if isinstance(value, list) and not isinstance(value[0], str):
        return "input: received token ids; send texts"
    if isinstance(value, dict) and value.get("documents") == [1]:
        return r"documents\[0\]: received 1; send a string"
    if any(text == "" for text in texts):
        return r"(input|query|documents\[1\]): received blank text; send text"
    keeps_all = fields.get("truncate") == "NONE" or fields.get("truncation") is False
    if keeps_all and any(len(text) > 20_000 for text in texts):
        return r"(texts|input)(\[0\])?: received a text of \d+ tokens "
    return None


def document_text(document: Any, fields: dict[str, Any]) -> str:
    """The text of a document to rank: itself, its `text`, or the fields that the caller names."""
    if isinstance(document, str):
        return document
    return "\n".join(document[name] for name in fields.get("rank_fields", ["text"]))
