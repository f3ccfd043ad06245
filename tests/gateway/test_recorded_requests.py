"""What 80 published clients sent is answered with the right vectors, or refused with a sentence.

`recorded_requests.jsonl` has the requests of real clients in Go, Rust, Java and JavaScript, and of
a real Weaviate server: the client's name, method, path, headers (KEY for the key) and body. Each is
sent as it is, and changed: another model name, other texts, another number of dimensions. What is
right is said by the oracle in `tests/support/recorded_requests.py`; vectors are the embedder's own.
"""

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import httpx2
import numpy as np
import pytest
from gateway_tools import LocalGateway
from recorded_requests import (
    KEY,
    MOST_DIMENSIONS,
    ROLE_FIELDS,
    TASK,
    Recorded,
    as_base64,
    dimensions_of,
    document_text,
    meant_by,
    read_records,
    refusal_of,
    role_of,
    sentence_shown,
    texts_of,
    vectors_of,
)

from e5.embedder import Embedder
from e5.gateway.backend import InProcessBackend
from e5.serving import Service

SAME_SORT = "Retrieve semantically similar text."  # the instruction of classification and the like
NAMES = ("model", "encoding_format", "task", "input_type", "user", "version", "webhook")


# The gateways


@pytest.fixture(scope="module")
def gateways(python: Embedder) -> dict[bool, LocalGateway]:
    """One with a key, and one without, in front of the built-in checkpoint in float32."""
    backend = InProcessBackend(python, Service.of(python, max_queue_tokens=1_000_000))
    return {
        keyed: LocalGateway(backend, model=python.name, keys=[KEY] if keyed else [])
        for keyed in (True, False)
    }


@pytest.fixture(scope="module")
def vector_of(python: Embedder) -> Any:
    """The right vector of a text, by its role; of the whole length."""

    @cache
    def right(text: str, role: str) -> Any:
        if role == "document":
            return python.encode_document([text], normalize=True)[0]
        task = TASK if role == "query" else SAME_SORT
        return python.encode_query([text], task=task, normalize=True)[0]

    return right


def send(request: Recorded, gateways: dict[bool, LocalGateway]) -> httpx2.Response:
    """To the gateway with a key; what comes without one is refused there, and sent to the other."""
    options: dict[str, Any] = {"headers": request.headers, "content": request.body.encode()}
    response = gateways[True].send(request.method, request.path, **options)
    if request.has_key or response.status_code in (200, 204, 404):
        return response
    assert response.status_code == 401
    assert "the key is missing or wrong" in sentence_shown(request, response)
    return gateways[False].send(request.method, request.path, **options)


def check(request: Recorded, gateways: dict[bool, LocalGateway], vector_of: Any) -> None:
    """Send a request, and hold its answer to the oracle."""
    response = send(request, gateways)
    assert response.headers["x-request-id"]
    if (refusal := refusal_of(request)) is not None:
        status, words = refusal
        assert response.status_code == status, response.text[:300]
        assert re.search(words, sentence_shown(request, response)), response.text[:300]
        return
    assert response.status_code in (200, 204), response.text[:300]
    if request.method != "POST" or request.route.endswith(("/check-api-key", "tokenize")):
        check_information(request, response)
        return
    answer, fields = response.json(), request.fields
    role = role_of(request)
    if "query" in fields and "input" not in fields:
        check_ranks(request, answer, vector_of)
    elif isinstance(fields.get("inputs"), dict):
        first = vector_of(fields["inputs"]["source_sentence"], "document")
        others = [vector_of(text, "document") for text in fields["inputs"]["sentences"]]
        cosines = [first @ other for other in others]
        np.testing.assert_allclose(answer, cosines, atol=1e-5)
    else:
        texts = texts_of(fields)
        assert texts
        dimensions = dimensions_of(fields) or MOST_DIMENSIONS
        found = np.array(vectors_of(request, answer), np.float64)
        if role != "document":
            texts = list(map(meant_by, texts))
        right = np.array([vector_of(text, role) for text in texts], np.float64)[:, :dimensions]
        assert found.shape == right.shape
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
        assert ((found * right).sum(axis=1) / lengths).min() >= 0.999999


def check_ranks(request: Recorded, answer: Any, vector_of: Any) -> None:
    """Each document's score is its cosine with the query, and the best stands first."""
    fields = request.fields
    query = vector_of(fields["query"], "query")
    documents = [document_text(document, fields) for document in fields["documents"]]
    right = [float(query @ vector_of(text, "document")) for text in documents]
    order = sorted(range(len(right)), key=lambda i: -right[i])
    most = fields.get("top_n") or fields.get("top_k") or len(right)
    rows = answer["data" if "voyage" in request.client else "results"]
    assert [row["index"] for row in rows] == order[:most]
    scores = [row["relevance_score"] for row in rows]
    np.testing.assert_allclose(scores, [right[i] for i in order[:most]], atol=1e-5)
    if fields.get("return_documents") is True:
        written = [row["document"] for row in rows]
        texts = [text["text"] if isinstance(text, dict) else text for text in written]
        assert texts == [documents[i] for i in order[:most]]


def check_information(request: Recorded, response: httpx2.Response) -> None:
    """What is asked beside vectors: models, versions, tokens, keys."""
    if request.method == "HEAD":
        assert response.content == b""
        return
    answer, route = response.json(), request.route
    if route == "/api/tags":
        assert answer["models"][0]["name"].startswith("e5-mini")
    elif route == "/api/version":
        assert re.fullmatch(r"\d+\.\d+\.\d+", answer["version"])
    elif route.endswith("/models"):
        assert answer["data"][0]["id"] == "e5-mini"
        if "cohere" in request.client:
            assert answer["models"][0]["name"] == "e5-mini"
    elif "/models/" in route:
        assert answer["id"] == request.model
    elif route.endswith("/check-api-key"):
        assert answer["valid"] is True
    elif route.endswith("tokenize"):
        assert len(answer["tokens"]) == len(answer["token_strings"]) > 0
        assert {type(token) for token in answer["tokens"]} == {int}
    elif route == "/.well-known/ready":
        assert response.status_code < 300
    else:
        assert route == "/meta"
        assert isinstance(answer, dict)


# The requests, and what is made of them


def ids(request: Recorded) -> str:
    return f"{request.client} {request.method} {request.path}"


ALL = list(read_records())


def test_all_records_are_read() -> None:
    assert len(ALL) == 214


@pytest.mark.parametrize("request_", ALL, ids=ids)
def test_what_clients_sent(
    request_: Recorded, gateways: dict[bool, LocalGateway], vector_of: Any
) -> None:
    check(request_, gateways, vector_of)


def with_other_texts(request: Recorded) -> Recorded:
    """Other texts, queries with a prompt of their own, other dimensions, the other encoding."""
    fields = request.fields
    source = fields["inputs"] if isinstance(fields.get("inputs"), dict) else {}
    pair = [source.get("source_sentence"), *source.get("sentences", [])]
    documents = [
        text
        for document in fields.get("documents", [])
        for text in (document.values() if isinstance(document, dict) else [document])
    ]
    strings = [*(texts_of(fields) or []), *pair, *documents]
    texts = {text for text in strings if isinstance(text, str) and text}
    form = f"Instruct: {TASK} Query:{{}}" if role_of(request) == "query" else "{}\n"

    def other(value: Any, name: str = "") -> Any:
        if isinstance(value, list):
            return [other(item, name) for item in value]
        if isinstance(value, dict):
            return {key: other(item, key) for key, item in value.items()}
        if name in ("dimensions", "output_dimension", "outputDimensionality") and value == 64:
            return 7
        if name == "query":
            return value and f"{value} and ice"
        return form.format(f"{value} ☃ Nr. 7") if name not in NAMES and value in texts else value

    fields = other(fields)
    if request.route.endswith("/embeddings") and "/api/" not in request.route:
        fields["encoding_format"] = "float" if as_base64(fields) is str else "base64"
    return replace(request, body=json.dumps(fields))


@pytest.mark.parametrize("request_", [request for request in ALL if request.body], ids=ids)
def test_what_clients_may_send(
    request_: Recorded, gateways: dict[bool, LocalGateway], vector_of: Any
) -> None:
    check(with_other_texts(request_), gateways, vector_of)


@pytest.mark.parametrize(
    "request_", [request for request in ALL if "e5-mini" in request.path + request.body], ids=ids
)
def test_other_names_of_the_model(
    request_: Recorded, gateways: dict[bool, LocalGateway], vector_of: Any, python: Embedder
) -> None:
    """Its whole name; and its name for queries, or for documents where they are sent as such."""
    role, says_role = role_of(request_), any(name in request_.body for name in ROLE_FIELDS)
    names = [python.name] if role != "query" else []
    if role == "document":
        names.append("e5-mini-passage" if says_role else "e5-mini-query")
    for name in names:
        path, body = (
            re.sub(r"e5-mini(?![-@\w])", name, text) for text in (request_.path, request_.body)
        )
        check(replace(request_, path=path, body=body), gateways, vector_of)
