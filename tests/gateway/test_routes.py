"""A body is read as the kind of request that it is, on each route that takes several kinds."""

from typing import Any

import pytest

from e5.gateway.cog_route import PredictionRequest
from e5.gateway.cohere import CohereInputsRequest, CohereTextsRequest, RerankRequest
from e5.gateway.replicate_route import ReplicateRequest
from e5.gateway.routes import POST_ROUTES, SEARCH_ROUTE
from e5.gateway.tei import (
    EmbedTextsRequest,
    EmbedWithParametersRequest,
    RankTextsRequest,
    SimilarityRequest,
)
from e5.gateway.weaviate import ScoresRequest
from e5.gateway.wire import WireRequest

ROUTES = {route.path: route for route in (*POST_ROUTES, SEARCH_ROUTE)}
PARTS = {"content": [{"type": "text", "text": "a"}]}
PAIR = {"source_sentence": "a", "sentences": ["b"]}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/rerank", {"query": "a", "texts": ["b"]}, RankTextsRequest),
        ("/rerank", {"query": "a", "documents": ["b"]}, RerankRequest),
        ("/rerank", {"query": "a", "documents": ["b"], "texts": None}, RerankRequest),
        ("/rerank", {"query": "a", "documents": ["b"], "property": ""}, ScoresRequest),
        ("/rerank", {"query": "a", "documents": ["b"], "property": None}, ScoresRequest),
        ("/rerank", {"query": "a", "texts": ["b"], "property": ""}, RankTextsRequest),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "property": ""}, RerankRequest),
        ("/", {"inputs": "a"}, EmbedTextsRequest),
        ("/", {"inputs": ["a"], "parameters": None}, EmbedTextsRequest),
        ("/", {"inputs": ["a"], "parameters": {}}, EmbedWithParametersRequest),
        ("/", {"inputs": PAIR}, SimilarityRequest),
        ("/", {"inputs": PAIR, "parameters": {}}, SimilarityRequest),
        ("/embed", {"inputs": ["a"], "parameters": {}}, EmbedWithParametersRequest),
        ("/v2/embed", {"texts": ["a"]}, CohereTextsRequest),
        ("/v2/embed", {"inputs": [PARTS]}, CohereInputsRequest),
        ("/v2/embed", {"texts": ["a"], "inputs": 5}, CohereTextsRequest),
        ("/v1/embed", {"texts": None, "inputs": [PARTS]}, CohereInputsRequest),
        ("/predictions", {"input": {"query": "a"}}, PredictionRequest),
        ("/predictions", {"input": {"query": "a"}, "version": None}, PredictionRequest),
        ("/predictions", {"input": {"query": "a"}, "version": "abc"}, ReplicateRequest),
        ("/v1/predictions", {"input": {"query": "a"}}, ReplicateRequest),
    ],
)
def test_a_body_is_of_its_kind(path: str, body: dict[str, Any], kind: type[WireRequest]) -> None:
    assert ROUTES[path].kind_of(body) is kind


def test_every_summary_is_a_sentence() -> None:
    for route in ROUTES.values():
        assert route.summary[0].isupper()
        assert route.summary.endswith(".")
