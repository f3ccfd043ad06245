"""Weaviate's modules get what its Go code reads (modules/ and usecases/modulecomponents of it)."""

from typing import Any

import httpx2
import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, cosine, sentence_of

from e5.embedder import Embedder
from e5.errors import ServiceError

TEXT = "Snow is frozen water\nthat falls. ❄️"
DOCUMENTS = ["A car.", "Frozen water falls from the sky.", "Ice", "A car."]


def vector_body(text: str = TEXT, **config: Any) -> dict[str, Any]:
    """What the transformers module sends for one text, empty fields included."""
    config = {"pooling_strategy": "masked_mean", **config}
    return {"text": text, "dims": 0, "vector": None, "error": "", "config": config}


def post(local: LocalGateway, path: str, body: object) -> httpx2.Response:
    """As Go's client does without a Content-Type."""
    return local.send("POST", path, json=body, headers={"content-type": ""})


@pytest.mark.parametrize("role", ["passage", "query", "PASSAGE", None])
def test_a_vector_by_the_transformers_module(
    role: str | None, local: LocalGateway, embedder: Embedder
) -> None:
    response = post(local, "/vectors", vector_body(task_type=role))
    answer = response.json()
    side = embedder.encode_query if role == "query" else embedder.encode_document
    assert cosine(answer["vector"], side(TEXT)) >= 0.999999
    assert np.linalg.norm(answer["vector"]) == pytest.approx(1)
    assert (answer["text"], answer["dim"], answer["dims"]) == (TEXT, 64, 64)
    assert response.headers["x-e5-prompt"].startswith(role if role == "query" else "document")


def test_a_vector_of_fewer_dimensions(local: LocalGateway, embedder: Embedder) -> None:
    answer = post(local, "/vectors", vector_body(task_type="query", dimensions=8)).json()
    right = embedder.encode_query(TEXT, dimensions=8, normalize=True)
    assert cosine(answer["vector"], right) >= 0.999999
    assert answer["dims"] == 8


@pytest.mark.parametrize("path", ["/vectors", "/vectorize"])
@pytest.mark.parametrize("body", [{"text": TEXT}, {"text": TEXT, "config": None}])
def test_a_vector_without_options(
    path: str, body: Any, local: LocalGateway, embedder: Embedder
) -> None:
    answer = post(local, path, body).json()
    assert cosine(answer["vector"], embedder.encode_document(TEXT)) >= 0.999999


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (vector_body(" "), "text: received blank text; send text"),
        ({"image": "aGk="}, "text: received nothing; send it."),
        ({"texts": ["snow"]}, "text: received nothing; send it."),
        ({"text": ["snow"]}, 'text: received ["snow"]; send a string.'),
        (vector_body(dimensions=65), "config.dimensions: received 65; use 1 to 64."),
        (vector_body(dimensions=0), "config.dimensions: received 0; send 1 or more."),
        (vector_body(task_type="sideways"), 'config.task_type: received "sideways"; send one of'),
        ({"text": "snow", "config": "query"}, 'config: received "query"; send an object.'),
    ],
)
def test_what_has_no_vector_is_an_error_as_a_string(
    body: Any, sentence: str, local: LocalGateway
) -> None:
    response = local.post("/vectors", body)
    assert sentence_of(response, 400).startswith(sentence)
    assert isinstance(response.json()["error"], str)


def test_it_waits_for_ready_and_reads_meta(fake: FakeBackend) -> None:
    local = LocalGateway(fake, keys=["a key"])  # the module sends none
    assert local.get("/.well-known/ready").status_code == 200
    assert local.get("/.well-known/live").status_code == 200
    assert local.get("/meta").json() == {
        "model": {
            "model_name": "small",
            "model_type": "mistral",
            "fingerprint": "0123456789ab",
            "dimensions": 8,
            "max_length": 4096,
        }
    }
    fake.is_ready = False
    assert local.get("/.well-known/ready").status_code == 503
    assert local.get("/.well-known/live").status_code == 200
    fake.info_outcome = ServiceError("secret", cause="unreachable")
    assert "secret" not in sentence_of(local.get("/meta"), 503)


def test_a_key_that_is_missing_is_said_as_a_string(fake: FakeBackend) -> None:
    local = LocalGateway(fake, keys=["a key"])
    for path, body in (("/vectors", vector_body()), ("/rerank", scores_body())):
        response = local.post(path, body)
        assert sentence_of(response, 401)
        assert isinstance(response.json()["error"], str)


# Its own service


@pytest.mark.parametrize(
    ("more", "is_query"),
    [
        ({}, False),
        ({"model": "small"}, False),
        ({"model": "small-passage", "is_search_query": False}, False),
        ({"model": "small", "is_search_query": True}, True),
        ({"model": "small-query"}, True),
        ({"model": "small-query", "is_search_query": True}, True),
    ],
)
def test_its_own_service_embeds(
    more: dict[str, Any], is_query: bool, local: LocalGateway, embedder: Embedder
) -> None:
    texts = [*DOCUMENTS, TEXT]
    answer = post(local, "/v1/embeddings/embed", {"input": texts, **more}).json()
    side = embedder.encode_query if is_query else embedder.encode_document
    right = side(texts, normalize=True)
    assert (np.array(answer["embeddings"]) * right).sum(axis=1).min() >= 0.999999
    assert answer["metadata"]["model"] == more.get("model", "small")
    assert answer["metadata"]["num_embeddings_inferred"] == len(texts)
    assert answer["metadata"]["usage"]["total_tokens"] > len(texts)


def test_its_own_service_cuts_dimensions(local: LocalGateway, embedder: Embedder) -> None:
    body = {"input": [TEXT], "model": "small", "dimensions": 8}
    answer = post(local, "/v1/embeddings/embed", body).json()
    right = embedder.encode_document([TEXT], dimensions=8, normalize=True)
    assert cosine(answer["embeddings"][0], right[0]) >= 0.999999


def test_its_own_service_reads_detail(local: LocalGateway) -> None:
    def detail(status: int, **body: Any) -> str:
        response = post(local, "/v1/embeddings/embed", {"input": ["snow"], **body})
        assert sentence_of(response, status)
        return str(response.json()["detail"])

    assert detail(404, model="Snowflake/x").startswith('model: received "Snowflake/x"; send one ')
    assert detail(400, input=["a", ""]).startswith("input[1]: received blank text")
    assert detail(400, input=None) == "input: received nothing; send it."
    assert detail(400, is_search_query="yes").startswith("is_search_query: received")
    assert detail(400, model="small-passage", is_search_query=True).startswith("is_search_query: ")


# Scores


def scores_body(documents: Any = DOCUMENTS, query: Any = "what is snow") -> dict[str, Any]:
    return {"query": query, "documents": documents, "property": ""}


def test_scores_are_in_the_order_of_the_documents(local: LocalGateway, embedder: Embedder) -> None:
    answer = post(local, "/rerank", scores_body()).json()
    right = embedder.similarity(
        embedder.encode_query("what is snow"), embedder.encode_document(DOCUMENTS)
    )
    assert [row["document"] for row in answer["scores"]] == DOCUMENTS
    found = [row["score"] for row in answer["scores"]]
    np.testing.assert_allclose(found, right.ravel() / 100, atol=1e-6)
    assert found != sorted(found, reverse=True)  # else the order would prove nothing
    assert answer["query"] == "what is snow"


def test_scores_of_a_property_that_is_null(local: LocalGateway) -> None:
    body = {**scores_body(), "property": None}
    assert post(local, "/rerank", body).json() == post(local, "/rerank", scores_body()).json()


def test_other_rerank_requests_are_answered_as_before(local: LocalGateway) -> None:
    query = {"query": "what is snow"}
    assert set(local.post("/rerank", {**query, "texts": DOCUMENTS}).json()[0]) == {"index", "score"}
    ranked = local.post("/rerank", {**query, "documents": DOCUMENTS}).json()["results"]
    assert set(ranked[0]) >= {"index", "relevance_score"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (scores_body(["a", " "]), "documents[1]: received blank text"),
        (scores_body(["a", None]), "documents[1]: received null; send a string."),
        (scores_body([]), "documents: received no text; send at least one."),
        (scores_body(None), "documents: received nothing; send it."),
        (scores_body(query=""), "query: received blank text"),
        (scores_body(query=5), "query: received 5; send a string."),
    ],
)
def test_what_has_no_score_is_an_error_as_a_string(
    body: Any, sentence: str, local: LocalGateway
) -> None:
    response = local.post("/rerank", body)
    assert sentence_of(response, 400).startswith(sentence)
    assert isinstance(response.json()["error"], str)
