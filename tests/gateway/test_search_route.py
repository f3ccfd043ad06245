"""A query finds the documents of an index, by the vector that the index was made for."""

from typing import Any

import numpy as np
import pytest
from corpus_tools import embed, write_corpus
from gateway_tools import FakeBackend, LocalGateway, sentence_of

from e5.corpora import Index, ShardFolder
from e5.embedder import Embedder
from e5.gateway.backend import InProcessBackend
from e5.serving import Service

TEXTS = ["Snow is frozen water.", "A summit is a mountain top.", "Ice is cold.", "Tea is hot."]
OWN = "Instruct: Find twins\nQuery: snow"


@pytest.fixture(scope="module")
def index(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The real one, over a few documents."""
    folder = tmp_path_factory.mktemp("search")
    embed(write_corpus(folder / "corpus" / "a.jsonl", TEXTS), folder / "out", embedder)
    return Index.build(ShardFolder(str(folder / "out")), str(folder / "index"))


@pytest.fixture(scope="module")
def local(embedder: Embedder, index: Index) -> LocalGateway:
    backend = InProcessBackend(embedder, Service.of(embedder, max_queue_tokens=1_000_000))
    return LocalGateway(backend, model=embedder.name, index=index)


def scores(embedder: Embedder, query: str, **options: Any) -> dict[str, float]:
    vector = embedder.encode_query(query, **options)
    row = embedder.similarity(vector, embedder.encode_document(TEXTS))[0]
    return dict(zip(TEXTS, row.tolist(), strict=True))


def test_hits_come_best_first_with_the_scores_of_the_direct_call(
    local: LocalGateway, embedder: Embedder, index: Index
) -> None:
    response = local.post("/search", {"query": "snow"})
    hits = response.json()["hits"]
    expected = scores(embedder, "snow", task=index.task)
    assert [hit["text"] for hit in hits] == sorted(TEXTS, key=lambda text: -expected[text])
    for hit in hits:
        assert hit["score"] == pytest.approx(expected[hit["text"]], abs=0.1)
    assert response.json()["model"] == embedder.name
    assert response.json()["usage"]["total_tokens"] > 0
    assert response.headers["x-e5-prompt"].startswith("query ")
    assert response.headers["x-e5-model"] == embedder.name
    assert response.headers["x-e5-truncated"] == "0/1"


def test_the_task_can_be_set_and_a_query_may_bring_its_own(
    local: LocalGateway, embedder: Embedder
) -> None:
    best = local.post("/search", {"query": "snow", "task": "Find twins"}).json()["hits"]
    assert local.post("/search", {"query": OWN}).json()["hits"] == best
    expected = scores(embedder, "snow", task="Find twins")
    assert best[0]["score"] == pytest.approx(max(expected.values()), abs=0.1)
    assert local.post("/search", {"query": OWN}).headers["x-e5-prompt"] == "own"


def test_a_task_is_an_instruction_and_never_a_role(local: LocalGateway) -> None:
    headers = local.post("/search", {"query": "snow", "task": "passage"}).headers
    assert headers["x-e5-prompt"] == 'query "passage"'
    schemas = local.get("/openapi.json").json()["components"]["schemas"]
    task = schemas["SearchRequest"]["properties"]["task"]
    assert task["maxLength"] == 10_000
    assert task["description"].startswith("What to search for: an instruction")


def test_as_many_come_as_were_asked_for(local: LocalGateway) -> None:
    for top in (1, 2, 1000):
        hits = local.post("/search", {"query": "snow", "top": top}).json()["hits"]
        assert len(hits) == min(top, len(TEXTS))


@pytest.mark.parametrize(
    ("body", "start"),
    [
        ({}, "query: received nothing"),
        ({"query": ""}, "query: received blank text"),
        ({"query": ["snow"]}, "query: received"),
        ({"query": "snow", "top": 0}, "top: received 0; send 1 to 1000"),
        ({"query": "snow", "top": -1}, "top: received -1"),
        ({"query": "snow", "top": 1001}, "top: received 1001"),
        ({"query": "snow", "top": "5"}, "top: received"),
        ({"query": "snow", "task": 5}, "task: received 5"),
        ({"query": "snow", "task": "x" * 10_001}, "task: received 10001 characters"),
    ],
)
def test_what_is_wrong_is_named(local: LocalGateway, body: dict[str, Any], start: str) -> None:
    assert sentence_of(local.post("/search", body), 400).startswith(start)


def test_an_index_of_another_model_is_refused(index: Index) -> None:
    fake = FakeBackend(dimensions=64)
    sentence = sentence_of(LocalGateway(fake, index=index).post("/search", {"query": "snow"}), 400)
    assert index.manifest.model in sentence
    assert np.all([request.dimensions == index.dimensions for request in fake.asked])


def test_without_an_index_there_is_no_such_route(fake: FakeBackend) -> None:
    sentence_of(LocalGateway(fake).post("/search", {"query": "snow"}), 404)
