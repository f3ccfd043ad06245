"""Ollama's routes: vectors by both forms, loading without a text, and descriptions of models."""

from typing import Any

import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, cosine, sentence_of

from e5.embedder import Embedder

TEXTS = ["snow", "ice and more ice", "a\nline"]
EMBED, OLDER = "/api/embed", "/api/embeddings"


class TestEmbed:
    @pytest.mark.parametrize("model", [None, "small", "small:latest", "small-passage:latest"])
    def test_texts_become_vectors_of_length_1_in_their_order(
        self, local: LocalGateway, embedder: Embedder, model: str | None
    ) -> None:
        answer = local.post(EMBED, {"model": model, "input": TEXTS}).json()
        expected = embedder.encode_document(TEXTS, normalize=True)
        np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-5)
        assert answer["model"] == (model or "small")
        assert answer["prompt_eval_count"] > len(TEXTS)

    @pytest.mark.parametrize("model", ["small-query", "small-query:latest"])
    def test_the_ending_of_the_name_gives_the_prompt(
        self, local: LocalGateway, embedder: Embedder, model: str
    ) -> None:
        query = embedder.encode_query("snow")
        for path, body in ((EMBED, {"input": "snow"}), (OLDER, {"prompt": "snow"})):
            answer = local.post(path, {"model": model, **body}).json()
            found = answer.get("embedding") or answer["embeddings"][0]
            assert cosine(found, query) >= 0.999999

    def test_the_older_form_has_one_text_and_the_same_vector(
        self, local: LocalGateway, embedder: Embedder
    ) -> None:
        answer = local.post(OLDER, {"model": "small", "prompt": "snow", "options": None}).json()
        expected = embedder.encode_document("snow", normalize=True)
        np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
        assert set(answer) == {"embedding"}

    def test_openais_clients_may_have_a_base_url_that_ends_in_api(
        self, local: LocalGateway, embedder: Embedder
    ) -> None:
        body = {"input": TEXTS, "model": "small-query"}
        rows = local.post(OLDER, body).json()["data"]
        found = [row["embedding"] for row in rows]
        expected = embedder.encode_query(TEXTS, normalize=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        refused = local.post(OLDER, {"input": ["a", " "]})
        assert sentence_of(refused, 400).startswith("input[1]: received blank text")
        assert refused.json()["error"]["param"] == "input[1]"

    def test_what_clients_send_beside_texts(self, local: LocalGateway, embedder: Embedder) -> None:
        beside = {
            "options": {"num_ctx": 4096, "temperature": None},
            "keep_alive": "5m",
            "truncate": True,
            "dimensions": 8,
        }
        found = local.post(EMBED, {"input": TEXTS, **beside}).json()["embeddings"]
        expected = embedder.encode_document(TEXTS, dimensions=8, normalize=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        nulls = dict.fromkeys([*beside, "prompt"])
        assert local.post(EMBED, {"input": "snow", **nulls}).status_code == 200

    @pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
    def test_any_content_type_or_none_will_do(self, local: LocalGateway, kind: str | None) -> None:
        headers = {} if kind is None else {"content-type": kind}
        response = local.send("POST", EMBED, content=b'{"input": ["snow"]}', headers=headers)
        assert np.shape(response.json()["embeddings"]) == (1, 64)
        refused = local.send("POST", EMBED, content=b"input=snow", headers=headers)
        assert "what is not JSON" in sentence_of(refused, 400)

    @pytest.mark.parametrize(
        ("path", "body", "start"),
        [
            (EMBED, {"input": ["a", " "]}, "input[1]: received blank text"),
            (EMBED, {"input": ["a", ""]}, "input[1]: received blank text"),
            (EMBED, {"input": ["a", None]}, "input[1]: received null"),
            (EMBED, {"input": 5}, "input: received 5"),
            (EMBED, {"input": [1, 2]}, "input: received token ids"),
            (EMBED, {"prompt": "a"}, "input: received nothing"),
            (EMBED, {"input": "a", "dimensions": 65}, "dimensions: received 65"),
            (EMBED, {"input": "a b" * 9000, "truncate": False}, "input: received a text of"),
            (OLDER, {"prompt": " "}, "prompt: received blank text"),
            (OLDER, {"prompt": ["a"]}, 'prompt: received ["a"]'),
            (OLDER, {"texts": "a", "prompt": 5}, "prompt: received 5"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, path: str, body: dict[str, Any], start: str
    ) -> None:
        assert sentence_of(local.post(path, body), 400).startswith(start)


class TestLoading:
    @pytest.mark.parametrize("nothing", [{}, {"input": ""}, {"input": []}, {"input": None}])
    def test_without_a_text_there_is_no_vector(
        self, nothing: dict[str, Any], fake: FakeBackend
    ) -> None:
        local = LocalGateway(fake)
        answer = local.post(EMBED, {"model": "small:latest", "keep_alive": -1, **nothing}).json()
        assert answer == {"model": "small:latest", "embeddings": [], "prompt_eval_count": 0}
        assert local.post(OLDER, {"model": "small"}).json() == {"embedding": []}
        assert local.post(OLDER, {"model": "small", "prompt": ""}).json() == {"embedding": []}
        assert not fake.asked

    def test_another_model_cannot_be_loaded(self, fake: FakeBackend) -> None:
        assert 'received "llama3"' in sentence_of(
            LocalGateway(fake).post(EMBED, {"model": "llama3"}), 404
        )


class TestModels:
    @pytest.mark.parametrize("field", ["model", "name"])
    def test_a_model_is_described(self, field: str, fake: FakeBackend) -> None:
        shown = LocalGateway(fake).post("/api/show", {field: "small:latest", "verbose": True})
        answer = shown.json()
        assert answer["capabilities"] == ["embedding"]
        architecture = answer["model_info"]["general.architecture"]
        assert answer["model_info"][f"{architecture}.context_length"] == 4096
        assert answer["model_info"][f"{architecture}.embedding_length"] == 8

    def test_no_model_or_another_one_is_refused(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake)
        assert 'received "x"' in sentence_of(local.post("/api/show", {"model": "x"}), 404)
        assert sentence_of(local.post("/api/show", {}), 400).startswith("model: received nothing")


@pytest.mark.parametrize(
    ("path", "status"), [(EMBED, 400), ("/api/chat", 404), ("/api/pull", 404), ("/api/tags", 405)]
)
def test_error_is_the_sentence_itself_on_every_route_of_ollama(
    path: str, status: int, fake: FakeBackend
) -> None:
    response = LocalGateway(fake).post(path, {"input": 5, "model": "small"})
    assert response.json()["error"] == sentence_of(response, status)
