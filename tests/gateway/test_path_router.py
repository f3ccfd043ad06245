"""A path with a slash or a prefix too many reaches the route that was meant, and no other does."""

import doctest
from typing import Any

import pytest
from gateway_tools import FakeBackend, LocalGateway, sentence_of
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from e5.gateway import path_router
from e5.gateway.path_router import PathRouter, meanings

HOST = "http://gateway"  # a path that begins with two slashes would be taken for a host
TEXTS = {"input": ["snow", "rain"]}


@pytest.fixture(scope="module")
def local() -> LocalGateway:
    return LocalGateway(FakeBackend(), aliases={"you/small": "small"}, keys=["k"])


def post(local: LocalGateway, path: str, body: Any) -> Any:
    return local.post(HOST + path, body, {"x-api-key": "k"})


@pytest.mark.parametrize(
    ("path", "route", "body"),
    [
        ("/v1/embeddings/", "/v1/embeddings", TEXTS),
        ("/v1/embeddings///", "/v1/embeddings", TEXTS),
        ("//v1//embeddings", "/v1/embeddings", TEXTS),
        ("/v1/v1/embeddings", "/v1/embeddings", TEXTS),
        ("/v1/v1/v1/embeddings/", "/v1/embeddings", TEXTS),
        ("/openai/v1/v1/embeddings", "/v1/embeddings", TEXTS),
        ("/openai/v1/openai/v1/embeddings", "/v1/embeddings", TEXTS),
        ("/api/v1/embeddings", "/v1/embeddings", TEXTS),
        ("/v2/v1/embeddings", "/v1/embeddings", TEXTS),
        ("/v1/embeddings/embeddings", "/v1/embeddings", TEXTS),
        ("/v1/embeddings/v1/embeddings", "/v1/embeddings", TEXTS),
        ("/v1beta/openai/embeddings", "/embeddings", TEXTS),
        ("/v1/v1/embed", "/v1/embed", {"texts": ["snow"]}),
        ("/v1/v2/embed", "/v2/embed", {"texts": ["snow"]}),
        ("/v2/v1/embed", "/v1/embed", {"texts": ["snow"]}),
        ("/v1//v2/rerank/", "/v2/rerank", {"query": "a", "documents": ["b"]}),
        ("//embed/", "/embed", {"inputs": "snow"}),
        ("/v1/similarity", "/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
        ("//", "/", {"inputs": "snow"}),
    ],
)
def test_a_post_reaches_the_route_that_was_meant(
    local: LocalGateway, path: str, route: str, body: Any
) -> None:
    before = local.counted("requests_total", route=route, status="200")
    response = post(local, path, body)
    assert response.status_code == 200, response.text
    assert local.counted("requests_total", route=route, status="200") == before + 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models//", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/openai/models", "/models"),
        ("/v1/models/small/", "/v1/models/small"),
        ("//v1/v1/models//small", "/v1/models/small"),
        ("/v1/models/you%2Fsmall", "/v1/models/you/small"),
        ("/v1/v1/models/you%2Fsmall/", "/v1/models/you/small"),
        ("/health/", "/health"),
        ("/v1/health", "/health"),
        ("/v1//info", "/info"),
    ],
)
def test_a_get_reaches_the_route_that_was_meant(
    local: LocalGateway, method: str, path: str, meant: str
) -> None:
    response = local.send(method, HOST + path)
    assert response.status_code == 200
    assert response.content == (local.get(HOST + meant).content if method == "GET" else b"")
    assert not response.history


@pytest.mark.parametrize(
    "path",
    [
        "/v1", "/v1/", "/v1/v1", "/nothing", "/v1/nothing", "/nothing/v1/embeddings",
        "/v1/embeddings/nothing", "/v3/embeddings", "/health/v1/embeddings", "/v1embeddings",
        "/v1/metrics", "/openai/v1/metrics", "/v1" * 101 + "/embeddings", "/v1/{name:path}",
    ],
)  # fmt: skip
def test_a_path_that_means_nothing_stays_404(local: LocalGateway, path: str) -> None:
    assert "there is no such route" in sentence_of(post(local, path, TEXTS), 404)


@pytest.mark.parametrize("path", ["/v1/embeddings/", "//v1/v1/embeddings"])
def test_another_method_is_405_there_too(local: LocalGateway, path: str) -> None:
    response = local.get(HOST + path)
    assert "which this route does not take" in sentence_of(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_key_is_asked_for_there_too(local: LocalGateway) -> None:
    assert sentence_of(local.post(f"{HOST}/v1/v1/embeddings/", TEXTS), 401)
    assert sentence_of(local.get(f"{HOST}/metrics/"), 401)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/models/a", ("/models/{name:path}", {"name": "a"})),
        ("/models/a/b", ("/models/{name:path}", {"name": "a/b"})),
        ("/models/a/b/by/c", ("/models/{name:path}/by/{id}", {"name": "a/b", "id": "c"})),
        ("/models/{name:path}", ("/models/{name:path}", {"name": "{name:path}"})),
        ("/models/embeddings", ("/models/embeddings", {})),
        ("/models/a/predictions", None),  # which takes POST
    ],
)  # fmt: skip
def test_the_longest_path_with_parameters_comes_first(
    path: str, found: tuple[str, dict[str, str]] | None
) -> None:
    async def endpoint(_: Request) -> Response:
        return Response()

    paths = ["/models/{name:path}", "/models/{name:path}/by/{id}", "/models/embeddings"]
    post = Route("/models/{name:path}/predictions", endpoint, methods=["POST"])
    router = PathRouter([*(Route(path, endpoint) for path in paths), post])
    _, scope = router.matches({"type": "http", "method": "GET", "path": path})
    route = scope["e5.route"]
    assert (route and (route.path, scope.get("path_params", {}))) == found


def test_a_meaning_is_looked_for_in_short_paths_alone() -> None:
    assert list(meanings("/v1" * 60_000)) == ["/v1" * 60_000]
    assert list(meanings("/" * 60_000 + "v1/v1/x")) == ["/v1/v1/x", "/v1/x", "/x"]


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(path_router, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)


@pytest.mark.parametrize(
    "path",
    ["/v1/models/small", "/v1/models/small/anything", "/v1beta/models/small"],
)
def test_what_may_be_any_name_takes_nothing_behind_a_prefix(local: LocalGateway, path: str) -> None:
    response = post(local, path, {"inputs": "snow"})
    assert "which this route does not take" in sentence_of(response, 405)
    assert "POST" not in response.headers["allow"]
    assert post(local, "/models/small", {"inputs": "snow"}).status_code == 200
