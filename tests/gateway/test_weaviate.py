"""Weaviate's modules get what its Go code reads (modules/ and usecases/modulecomponents of it)."""

import asyncio
from typing import Any

import httpx2
import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, answer_of, cosine, sentence_of

from e5.embedder import Embedder
from e5.errors import ServiceError
from e5.gateway.limits import GatewayLimits
from e5.serving import Answer, EmbedRequest

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

    assert detail(404, model="Snowflake/x").startswith("model: received 'Snowflake/x'; this")
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


# How much it may send at a time


def rate_limits(response: httpx2.Response) -> dict[str, int]:
    """As Weaviate's OpenAI module reads them; -1 for a header that is missing or no number."""
    names = ("limit-requests", "limit-tokens", "remaining-requests", "remaining-tokens")
    return {name: int(response.headers.get(f"x-ratelimit-{name}", -1)) for name in names}


def test_rate_limits_are_the_limits(fake: FakeBackend) -> None:
    local = LocalGateway(fake, limits=GatewayLimits(in_flight=50))
    response = local.post("/v1/embeddings", {"input": "snow"})
    assert rate_limits(response) == {
        "limit-requests": 50,
        "limit-tokens": fake.max_queue_tokens,
        "remaining-requests": 49,  # without the one that is being answered
        "remaining-tokens": fake.max_queue_tokens - fake.waiting_tokens(),
    }
    assert response.headers["x-ratelimit-reset-requests"] == "1s"
    assert response.headers["x-ratelimit-reset-tokens"] == "1s"


def test_remaining_requests_and_tokens_fall_while_others_are_answered(fake: FakeBackend) -> None:
    waiting = asyncio.Event()

    async def wait_for_the_last(request: EmbedRequest) -> Answer:
        if request.documents == ["last"]:
            waiting.set()
        await waiting.wait()
        return answer_of(np.ones((1, 8), np.float32))

    fake.outcome = wait_for_the_last
    fake.max_queue_tokens = 5  # fewer than wait
    local = LocalGateway(fake, limits=GatewayLimits(in_flight=4))

    async def story() -> list[httpx2.Response]:
        async with local.client() as client:
            texts = ["first", "second", "last"]
            asks = [client.post("/v1/embeddings", json={"input": text}) for text in texts]
            return await asyncio.gather(*asks)

    limits = [rate_limits(response) for response in asyncio.run(story())]
    assert min(limit["remaining-requests"] for limit in limits) == 1
    assert {limit["remaining-tokens"] for limit in limits} == {0}


@pytest.mark.parametrize("tokens", [40, 500])
def test_two_hundred_objects_are_two_requests_of_weaviate_s(
    tokens: int, local: LocalGateway
) -> None:
    """Its decision (`sendBatch` and `CanSendFullBatch`), with what a default gateway tells it."""
    limits = rate_limits(local.post("/v1/embeddings", {"input": "the first object"}))
    assert min(limits.values()) > 0  # else it goes on asking for one object at a time
    sent, left, requests = 1, 199 * tokens, 1
    fits = limits["remaining-tokens"] >= left and left * 100 // limits["limit-tokens"] <= 15
    assert fits
    assert 100 // limits["limit-requests"] <= 15
    while sent < 200:
        requests += 1
        most = min(2000, 0.95 * limits["remaining-tokens"] // tokens, 0.95 * 300_000 // tokens)
        sent += int(most)
    assert requests == 2
