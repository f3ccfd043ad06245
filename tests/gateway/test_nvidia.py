"""NVIDIA's ranking, by each name of its route."""

from typing import Any

import pytest
from gateway_tools import FakeBackend, LocalGateway, sentence_of

from e5.embedder import Embedder
from e5.vectors import cosine_scores

QUERY = "what is frozen water"
PASSAGES = ["Snow is frozen water.", "A summit is a mountain top.", "Ice is cold.", "Tea is hot."]
BODY = {"query": {"text": QUERY}, "passages": [{"text": text} for text in PASSAGES]}
PATHS = [
    *("/v1/ranking", "/v1/retrieval/nvidia/reranking"),
    *("/v1/retrieval/nvidia/small/reranking", "/v1/retrieval/small/reranking"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("more", [{}, {"model": "small", "truncate": "END"}, {"truncate": "NONE"}])
def test_passages_are_ranked_by_their_cosine_with_the_query(
    local: LocalGateway, embedder: Embedder, path: str, more: dict[str, Any]
) -> None:
    response = local.post(path, BODY | more)
    assert response.headers["x-e5-prompt"].startswith("query ")
    rows = response.json()["rankings"]
    query, passages = embedder.encode_query([QUERY]), embedder.encode_document(PASSAGES)
    expected = cosine_scores(query, passages)[0] / 100
    assert [row["index"] for row in rows] == expected.argsort()[::-1].tolist()
    for row in rows:
        assert row["logit"] == pytest.approx(expected[row["index"]], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({"query": "a"}, 'query: received "a"'),
        ({"query": {"text": " "}}, "query.text: received blank text"),
        ({"passages": []}, "passages: received []"),
        ({"passages": [{"text": "a"}, {"text": ""}]}, "passages[1].text: received blank text"),
        ({"passages": [{"text": "a"}, "b"]}, 'passages[1]: received "b"'),
        ({"passages": [{"text": "a", "image": "x"}]}, "passages[0].image: received an image"),
        ({"passages": [{"text": "a"}] * 2049}, "passages: received 2049 texts"),
        ({"truncate": "START"}, 'truncate: received "START"'),
    ],
)
def test_what_is_wrong_is_named(local: LocalGateway, change: dict[str, Any], start: str) -> None:
    assert sentence_of(local.post(PATHS[0], BODY | change), 400).startswith(start)


@pytest.mark.parametrize(
    ("path", "model"), [(PATHS[0], "gpt"), (PATHS[1], "gpt"), ("/v1/retrieval/gpt/reranking", None)]
)
def test_a_model_that_is_not_here_is_404(path: str, model: str | None, fake: FakeBackend) -> None:
    response = LocalGateway(fake).post(path, BODY | {"model": model})
    assert 'received "gpt"' in sentence_of(response, 404)
