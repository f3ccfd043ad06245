"""Every request is answered: with the vectors and what was done, or with one error body."""

import asyncio
import json
import logging
from typing import Any, ClassVar

import httpx2
import pytest
from gateway_tools import MODEL, FakeBackend, LocalGateway, sentence_of
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from e5.errors import (
    E5Error,
    EngineError,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
)
from e5.gateway.limits import GatewayLimits
from e5.gateway.routes import POST_ROUTES
from e5.gateway.wire import InformationRequest
from e5.serving import Answer, EmbedRequest

TEXTS = {"input": ["snow", "rain"]}
BODIES: dict[str, Any] = {  # of every kind of route that computes
    "/v1/embeddings": TEXTS,
    "/embeddings": TEXTS,
    "/v1/embed": {"texts": ["snow"]},
    "/v2/embed": {"texts": ["snow"]},
    "/v1/rerank": {"query": "snow", "documents": ["rain"]},
    "/v2/rerank": {"query": "snow", "documents": ["rain"]},
    "/rerank": {"query": "snow", "texts": ["rain"]},
    "/embed": {"inputs": "snow"},
    "/similarity": {"inputs": {"source_sentence": "snow", "sentences": ["rain"]}},
    "/": {"inputs": "snow"},
    "/vectors": {"text": "snow"},
    "/vectorize": {"text": "snow"},
    "/v1/embeddings/embed": {"input": ["snow"]},
    "/predictions": {"input": {"query": "snow"}},
    "/openai/deployments/{name:path}/embeddings": TEXTS,
    "/deployments/{name:path}/embeddings": TEXTS,
    "/models/embeddings": TEXTS,
    "/v1/predictions": {"input": {"query": "snow"}},
    "/models/{name:path}/predictions": {"input": {"query": "snow"}},
    "/deployments/{name:path}/predictions": {"input": {"query": "snow"}},
    "/v1/ranking": {"query": {"text": "snow"}, "passages": [{"text": "rain"}]},
    "/api/embed": {"input": "snow"},
    "/api/embeddings": {"prompt": "snow"},
    "/v1beta/models/{name:path}:embedContent": {"content": {"parts": [{"text": "snow"}]}},
    "/v1beta/models/{name:path}:batchEmbedContents": {
        "requests": [{"content": {"parts": [{"text": "snow"}]}}]
    },
    "/publishers/google/models/{name:path}:predict": {"instances": [{"content": "snow"}]},
    "/models/{name:path}": {"inputs": "snow"},
}
GET_PATHS: tuple[str, ...] = (
    "/", "/v1/models", "/models", f"/v1/models/{MODEL.partition('@')[0]}", "/info", "/health",
    "/ready", "/health-check", "/openapi.json", "/.well-known/ready", "/.well-known/live", "/meta",
    "/api/tags", "/api/ps", "/api/version", "/v1beta/models", "/v1beta/models/small",
)  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"]
SECRET = "a secret text"


def sentence_on(response: httpx2.Response, path: str, status: int) -> str:
    """The sentence of a refusal; Cog's own route has another body around it."""
    if path != "/predictions":
        return sentence_of(response, status)
    assert response.status_code == status, response.text
    sentence: str = response.json()["message"]
    return sentence


def url_of(path: str) -> str:
    """A URL of a route's path."""
    return path.replace("{name:path}", "small")


def test_all_kinds_of_requests_are_asked_here() -> None:
    asked = {kind for route in POST_ROUTES if route.path in BODIES for kind in route.requests}
    others = {kind for route in POST_ROUTES for kind in route.requests} - asked
    assert {route.path for route in POST_ROUTES} > BODIES.keys()
    assert {kind for kind in others if not issubclass(kind, InformationRequest)} == set()


@pytest.mark.parametrize("path", BODIES)
def test_an_answer_says_what_was_done(path: str, fake: FakeBackend) -> None:
    response = LocalGateway(fake).post(url_of(path), BODIES[path], {"x-request-id": "mine-7"})
    assert response.status_code == 200, response.text
    assert response.headers["x-e5-model"] == MODEL
    assert response.headers["x-e5-prompt"]
    assert response.headers["x-e5-truncated"].startswith("0/")
    assert response.headers["x-request-id"] == "mine-7"
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", GET_PATHS)
def test_routes_without_a_cost_need_no_key(path: str, fake: FakeBackend) -> None:
    response = LocalGateway(fake, keys=["k"]).get(path, headers={"origin": "http://elsewhere"})
    assert response.status_code == 200, response.text
    assert response.headers["x-request-id"]
    assert "access-control-allow-origin" not in response.headers


class TestKeys:
    @pytest.mark.parametrize("path", [*BODIES, "/metrics"])
    def test_one_of_them_must_come_with_what_costs_something(
        self, path: str, fake: FakeBackend
    ) -> None:
        local = LocalGateway(fake, keys=["first", "second"])
        method, options = ("POST", {"json": BODIES[path]}) if path in BODIES else ("GET", {})

        def status(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return local.send(method, url_of(path), headers=named, **options).status_code

        for key in ("first", "second"):
            assert status(authorization=f"Bearer {key}") == 200
            assert status(authorization=f"bearer {key}") == 200
            assert status(x_api_key=key) == 200
        for wrong in ("", "firs", "first2", "first,second", "FIRST"):
            assert status(authorization=f"Bearer {wrong}") == 401
            assert status(x_api_key=wrong) == 401
        assert status(authorization="Basic first") == 401
        refused = local.send(method, url_of(path), **options)
        assert "the key is missing or wrong" in sentence_on(refused, path, 401)
        assert refused.headers["www-authenticate"] == "Bearer"


class TestCors:
    PREFLIGHT: ClassVar = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    NOTES = "app://obsidian.md"

    @pytest.mark.parametrize("origins", [(), (NOTES,), (NOTES, "http://localhost:3000"), ("*",)])
    @pytest.mark.parametrize("origin", [NOTES, "http://localhost:3000", "https://elsewhere"])
    def test_pages_of_these_origins_may_ask(
        self, fake: FakeBackend, origins: tuple[str, ...], origin: str
    ) -> None:
        local = LocalGateway(fake, keys=["k"], origins=origins)
        allowed = "*" if origins == ("*",) else origin if origin in origins else None
        sent = {"Origin": origin}
        responses = [
            local.post("/v1/embeddings", TEXTS, sent | {"x-api-key": "k"}),
            local.get("/v1/models", headers=sent),
            local.post("/v1/embeddings", TEXTS, sent),  # 401
            local.get("/nothing", headers=sent),
            local.get("/v1/embeddings", headers=sent),  # 405
        ]
        assert [response.status_code for response in responses] == [200, 200, 401, 404, 405]
        for response in responses:
            assert response.headers.get("access-control-allow-origin") == allowed
            if origins:
                assert "Origin" in response.headers["vary"]
                exposed = response.headers["access-control-expose-headers"].split(", ")
                assert {"x-e5-prompt", "x-e5-model", "x-e5-truncated", "x-request-id"} < {*exposed}

    @pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/models", "/v1/v1/embeddings/", "/x"])
    def test_a_preflight_needs_no_key(self, fake: FakeBackend, path: str) -> None:
        local = LocalGateway(fake, keys=["k"], origins=[self.NOTES])
        response = local.send("OPTIONS", path, headers=self.PREFLIGHT | {"Origin": self.NOTES})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == self.NOTES
        assert "POST" in response.headers["access-control-allow-methods"]
        for name in ("authorization", "content-type", "x-stainless-lang"):
            assert name in response.headers["access-control-allow-headers"]
        assert "Origin" in response.headers["vary"]
        assert not fake.asked

    def test_a_preflight_of_another_page_is_refused(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake, origins=[self.NOTES])
        headers = self.PREFLIGHT | {"Origin": "https://elsewhere"}
        response = local.send("OPTIONS", "/v1/embeddings", headers=headers)
        assert (response.status_code, response.text) == (400, "Disallowed CORS origin")
        assert "access-control-allow-origin" not in response.headers

    def test_by_default_a_preflight_is_another_method(self, fake: FakeBackend) -> None:
        headers = self.PREFLIGHT | {"Origin": self.NOTES}
        response = LocalGateway(fake).send("OPTIONS", "/v1/embeddings", headers=headers)
        assert sentence_of(response, 405)

    @pytest.mark.parametrize(("limits", "status"), [
        (GatewayLimits(body_bytes=5), 413), (GatewayLimits(deadline_seconds=0.01), 504),
    ])  # fmt: skip
    def test_refusals_of_every_kind_can_be_read(self, limits: GatewayLimits, status: int) -> None:
        async def sleep(_: EmbedRequest) -> Answer:
            await asyncio.sleep(600)
            raise AssertionError

        local = LocalGateway(FakeBackend(outcome=sleep), limits=limits, origins=[self.NOTES])
        response = local.post("/v1/embeddings", TEXTS, {"Origin": self.NOTES})
        assert sentence_of(response, status)
        assert response.headers["access-control-allow-origin"] == self.NOTES


CAUSES: list[tuple[Exception, int]] = [
    (InputError("queries[0]", "null", "send a string"), 400),
    (NonFiniteError(0, "documents[0]"), 400),
    (OutOfMemoryError(9, 0, "documents[0]"), 400),
    (RequestTooLargeError(10, 5), 413),
    (QueueFullError(10, 5, 12), 429),
    (ServiceError("http://secret: busy.", cause="busy", retry_after=7), 429),
    (ServiceError("http://secret: gone.", cause="unreachable"), 503),
    (ServiceError("http://secret: late.", cause="deadline"), 504),
    (ServiceError("http://secret: odd.", cause="other"), 502),
    (EngineError("the engine failed."), 502),
    (RuntimeError(SECRET), 502),
    (TimeoutError(SECRET), 504),
]


class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize("path", BODIES)
    @pytest.mark.parametrize(("error", "status"), CAUSES, ids=lambda value: str(value)[:30])
    def test_each_cause_has_its_status(self, path: str, error: Exception, status: int) -> None:
        local = LocalGateway(FakeBackend(outcome=error))
        response = local.post(url_of(path), BODIES[path])
        sentence = sentence_on(response, path, status)
        assert "secret" not in sentence
        assert ("retry-after" in response.headers) == (status in (429, 503))
        assert local.counted("requests_total", route=path, status=str(status)) == 1
        failures = local.counted("backend_failures_total", status=str(status))
        assert failures == (1 if status >= 502 else 0)
        assert local.counted("in_flight") == 0

    @pytest.mark.slow
    def test_the_log_has_the_traceback_and_not_what_an_exception_says(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, "e5"):
            local = LocalGateway(FakeBackend(outcome=RuntimeError(SECRET)))
            local.post("/v1/embeddings", {"input": SECRET}, {"x-request-id": "find-me"})
        assert "request find-me to /v1/embeddings failed: RuntimeError" in caplog.text
        assert "in answer" in caplog.text
        assert SECRET not in caplog.text

    @pytest.mark.parametrize("sent", ["a\x1b[31mb", "a\tb", "a b", "é", "x" * 129, ""])
    def test_an_id_that_cannot_go_into_a_log_is_replaced(
        self, sent: str, fake: FakeBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, "e5"):
            response = LocalGateway(fake).post(
                "/v1/embeddings",
                {"input": None},
                {"x-request-id": sent.encode()},  # type: ignore[dict-item]
            )
        assert len(response.headers["x-request-id"]) == 32
        assert "\x1b" not in caplog.text
        assert response.headers["x-request-id"] in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
    @pytest.mark.parametrize("path", BODIES)
    def test_another_method_is_405_with_those_that_are_taken(
        self, method: str, path: str, fake: FakeBackend
    ) -> None:
        if method == "GET" and (path in ("/", "/models/{name:path}") or "v1beta" in path):
            return  # they are told something
        response = LocalGateway(fake).send(method, url_of(path))
        assert "which this route does not take" in sentence_of(response, 405)
        assert "POST" in response.headers["allow"]

    @pytest.mark.parametrize("path", ["/v1", "/nothing", "/v1/embeddings/x", "/%00", "/v1/%0a"])
    def test_no_route_is_404(self, path: str, fake: FakeBackend) -> None:
        assert "there is no such route" in sentence_of(LocalGateway(fake).get(path), 404)

    def test_a_wrong_path_and_a_wrong_method_are_named_with_a_remedy(
        self, fake: FakeBackend
    ) -> None:
        local = LocalGateway(fake)
        assert sentence_of(local.post("/api/chat", {}), 404) == (
            'the path: received "/api/chat", and there is no such route; '
            "use one that GET /openapi.json lists."
        )
        assert sentence_of(local.post("/v1beta/models/small:generateContent", {}), 405) == (
            "the method: received POST, which this route does not take; "
            "send GET or HEAD, or use another route of GET /openapi.json."
        )

    def test_a_model_that_is_not_here_is_404(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake, aliases={"ada": "small-query"})
        for response in (
            local.post("/v1/embeddings", TEXTS | {"model": "gpt"}),
            local.get("/v1/models/gpt"),
        ):
            assert "send one of small, small-query, small-passage, ada" in sentence_of(
                response, 404
            )

    @pytest.mark.slow
    @given(
        method=st.sampled_from(METHODS),
        path=st.sampled_from([*map(url_of, BODIES), *GET_PATHS, "/metrics", "/x"]),
        body=st.binary(max_size=50) | st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["input", "inputs", "texts", "query", "documents", "task"]), inner
            ),
        ).map(lambda value: json.dumps(value).encode()),
        kind=st.sampled_from(["application/json", "text/plain", "", "application/json; charset=x"]),
    )  # fmt: skip
    @settings(max_examples=150, deadline=None)
    def test_whatever_comes_is_no_failure_of_ours(
        self, method: str, path: str, body: bytes, kind: str
    ) -> None:
        response = LocalGateway(FakeBackend()).send(
            method, path, content=body, headers={"content-type": kind}
        )
        assert response.status_code < 500
        if response.status_code >= 400 and method != "HEAD":
            assert response.json()["message"].endswith(".")


class TestLimits:
    def test_too_many_at_a_time_are_429_and_none_is_lost(self) -> None:
        gate = asyncio.Event()

        async def wait(request: EmbedRequest) -> Answer:
            await gate.wait()
            return await FakeBackend().answer(request)

        async def story() -> list[httpx2.Response]:
            local = LocalGateway(FakeBackend(outcome=wait), limits=GatewayLimits(in_flight=4))
            async with local.client() as client:
                asking = [
                    asyncio.create_task(client.post("/v1/embeddings", json=TEXTS))
                    for _ in range(10)
                ]
                while sum(task.done() for task in asking) < 6:
                    await asyncio.sleep(0.001)
                assert (await client.get("/health")).status_code == 200  # it lives
                gate.set()
                return await asyncio.gather(*asking)

        answers = asyncio.run(story())
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 6
        for answer in answers:
            if answer.status_code == 429:
                assert "too many requests at a time" in sentence_of(answer, 429)
                assert answer.headers["retry-after"] == "1"

    @pytest.mark.slow
    def test_more_texts_or_characters_than_a_request_may_have(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake)
        sentence = sentence_of(local.post("/v1/embeddings", {"input": ["a"] * 2049}), 400)
        assert sentence == "input: received 2049 texts; send at most 2048 in one request."
        sentence = sentence_of(local.post("/v1/embeddings", {"input": ["a" * 1_000_001]}), 400)
        assert sentence.startswith("input[0]: received 1000001 characters")
        sentence = sentence_of(local.post("/v1/embeddings", {"input": ["a" * 999_999] * 11}), 400)
        assert sentence.startswith("input: received 10999989 characters")
        assert not fake.asked


class TestReadiness:
    def test_ready_is_whether_it_can_answer_now(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake)
        assert local.get("/ready").status_code == 200
        fake.is_ready = False
        assert sentence_of(local.get("/ready"), 503)
        assert local.get("/health").status_code == 200
        fake.is_ready = True
        local.gateway.drain()
        assert "stopping" in sentence_of(local.get("/ready"), 503)
        response = local.post("/v1/embeddings", TEXTS)
        assert response.status_code == 200  # what still comes is answered
        assert response.headers["connection"] == "close"

    def test_a_backend_that_cannot_tell_is_said(self) -> None:
        local = LocalGateway(FakeBackend(info_outcome=ServiceError("gone.", cause="unreachable")))
        assert sentence_of(local.get("/info"), 503)

    def test_closing_lets_go_of_the_backend(self, fake: FakeBackend) -> None:
        asyncio.run(LocalGateway(fake).gateway.close())
        assert fake.is_closed


def test_metrics_count_what_was_answered() -> None:
    local = LocalGateway(FakeBackend())
    local.post("/v1/embeddings", TEXTS)
    local.post("/v1/embeddings", {"input": None})
    local.get("/nothing")
    values = {
        (sample.name, sample.labels.get("route"), sample.labels.get("status")): sample.value
        for family in text_string_to_metric_families(local.get("/metrics").text)
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert values["e5_gateway_requests_total", "/v1/embeddings", "200"] == 1
    assert values["e5_gateway_requests_total", "/v1/embeddings", "400"] == 1
    assert values["e5_gateway_requests_total", "none", "404"] == 1
    assert values["e5_gateway_texts_total", "/v1/embeddings", None] == 2
    assert values["e5_gateway_tokens_total", "/v1/embeddings", None] == 6
    assert values["e5_gateway_seconds_count", "/v1/embeddings", None] == 2
    assert values["e5_gateway_queue_tokens", None, None] == 7
    assert values["e5_gateway_in_flight", None, None] == 1  # this one


@pytest.mark.parametrize("error", [QueueFullError(1, 2, 3), InputError("documents[1]", "7", "no")])
def test_errors_have_the_callers_names_of_fields(error: E5Error) -> None:
    response = LocalGateway(FakeBackend(outcome=error)).post("/v1/embeddings", TEXTS)
    sentence = sentence_of(response, response.status_code)
    assert "documents" not in sentence
    assert sentence.startswith("input[1]: ") == isinstance(error, InputError)
