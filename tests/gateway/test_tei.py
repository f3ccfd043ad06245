"""text-embeddings-inference's routes, and what Hugging Face's clients send to `/` and elsewhere."""

from typing import Any

import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, cosine, sentence_of

from e5.embedder import Embedder
from e5.gateway.wire import TOKEN_IDS_REMEDY

TEXTS = ["snow", "ice and more ice", "a"]
SOURCE = "what is frozen water"


@pytest.mark.parametrize("path", ["/embed", "/"])
class TestEmbed:
    def test_texts_become_a_list_of_vectors(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        found = local.post(path, {"inputs": TEXTS}).json()
        expected = embedder.encode_document(TEXTS, normalize=True)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        for one, other in zip(found, expected, strict=True):
            assert cosine(one, other) >= 0.999999

    def test_one_text_becomes_a_list_of_one(self, local: LocalGateway, path: str) -> None:
        assert np.shape(local.post(path, {"inputs": "snow"}).json()) == (1, 64)

    @pytest.mark.parametrize(
        ("prompt_name", "side"),
        [
            (None, "document"),
            ("query", "query"),
            ("web_search_query", "query"),
            ("document", "document"),
            ("passage", "document"),
            ("sts_query", "symmetric"),
            ("SciFact", "query"),
        ],
    )
    def test_the_prompts_name_decides(
        self, local: LocalGateway, embedder: Embedder, path: str, prompt_name: str | None, side: str
    ) -> None:
        response = local.post(path, {"inputs": "snow", "prompt_name": prompt_name})
        assert response.headers["x-e5-prompt"].partition(" ")[0] == side
        task = "web_search_query" if prompt_name == "query" else str(prompt_name)
        expected = (
            embedder.encode_document("snow")
            if side == "document"
            else embedder.encode_query("snow", task=task)
        )
        assert cosine(response.json()[0], expected) >= 0.999999

    def test_normalize_is_obeyed(self, local: LocalGateway, embedder: Embedder, path: str) -> None:
        body = {"inputs": TEXTS, "truncate": True, "normalize": False}  # as Haystack sends it
        np.testing.assert_allclose(
            local.post(path, body).json(), embedder.encode_document(TEXTS), atol=1e-3
        )

    def test_options_may_stand_in_parameters(self, local: LocalGateway, path: str) -> None:
        options = {"prompt_name": "query", "normalize": False, "dimensions": 4}
        beside = local.post(path, {"inputs": TEXTS, **options}).json()
        inside = local.post(path, {"inputs": TEXTS, "parameters": options}).json()
        assert beside == inside
        assert np.shape(inside) == (3, 4)

    def test_nulls_and_rights_of_hugging_faces_client_are_absent(
        self, local: LocalGateway, path: str
    ) -> None:
        body = {
            "inputs": TEXTS,
            **dict.fromkeys(("prompt_name", "normalize", "truncate", "dimensions")),
            "truncation_direction": "Right",
            "encoding_format": None,
        }
        assert local.post(path, body).json() == local.post(path, {"inputs": TEXTS}).json()

    @pytest.mark.parametrize(
        ("more", "start"),
        [
            ({"truncation_direction": "Left"}, 'truncation_direction: received "Left"'),
            ({"encoding_format": "base64"}, 'encoding_format: received "base64"; send float.'),
            ({"prompt_name": "qeury"}, 'prompt_name: received "qeury"'),
            ({"dimensions": 65}, "dimensions: received 65; use 1 to 64"),
            ({"inputs": ["a", ""]}, "inputs[1]: received blank text"),
            ({"inputs": [[1, 2]]}, f"inputs: received token ids; {TOKEN_IDS_REMEDY}"),
            ({"parameters": 5}, "parameters: received 5"),
            ({"parameters": {"normalize": 5}}, "parameters.normalize: received 5"),
        ],
    )
    def test_what_is_wrong_is_named_and_error_is_a_string(
        self, local: LocalGateway, path: str, more: dict[str, Any], start: str
    ) -> None:
        response = local.post(path, {"inputs": TEXTS, **more})
        assert sentence_of(response, 400).startswith(start)
        assert isinstance(response.json()["error"], str)

    def test_truncate_false_is_obeyed(self, local: LocalGateway, path: str) -> None:
        response = local.post(path, {"inputs": ["a", "snow " * 5000], "truncate": False})
        assert sentence_of(response, 400).startswith("inputs[1]: received a text of 5003 tokens")


@pytest.mark.parametrize("path", ["/similarity", "/"])
class TestSimilarity:
    def ask(self, local: LocalGateway, path: str, **parameters: Any) -> Any:
        inputs = {"source_sentence": SOURCE, "sentences": TEXTS}
        body: dict[str, Any] = {"inputs": inputs}
        if parameters:
            body["parameters"] = parameters
        response = local.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    def test_a_cosine_for_each_sentence(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        documents = embedder.encode_document(TEXTS)
        bare = embedder.similarity(embedder.encode_document(SOURCE), documents)[0] / 100
        np.testing.assert_allclose(self.ask(local, path), bare, atol=1e-5)

    def test_a_query_is_compared_with_documents(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        documents = embedder.encode_document(TEXTS)
        query = embedder.similarity(embedder.encode_query(SOURCE), documents)[0] / 100
        np.testing.assert_allclose(self.ask(local, path, prompt_name="query"), query, atol=1e-5)

    def test_under_a_symmetric_task_all_carry_it(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        documents = embedder.encode_document(TEXTS, task="sts_query")
        query = embedder.encode_query(SOURCE, task="sts_query")
        expected = embedder.similarity(query, documents)[0] / 100
        np.testing.assert_allclose(
            self.ask(local, path, prompt_name="sts_query"), expected, atol=1e-5
        )

    @pytest.mark.parametrize(
        ("inputs", "start"),
        [
            ({}, "inputs.source_sentence: received nothing"),
            ({"source_sentence": "a"}, "inputs.sentences: received nothing"),
            ({"source_sentence": "a", "sentences": "b"}, "inputs.sentences: received"),
            ({"source_sentence": "a", "sentences": []}, "inputs.sentences: received no text"),
            ({"source_sentence": 5, "sentences": ["b"]}, "inputs.source_sentence: received 5"),
            ({"source_sentence": "a", "sentences": ["b", 5]}, "inputs.sentences[1]: received 5"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, path: str, inputs: Any, start: str
    ) -> None:
        assert sentence_of(local.post(path, {"inputs": inputs}), 400).startswith(start)


class TestRanks:
    @pytest.mark.parametrize("with_text", [False, True])
    def test_texts_come_best_first(
        self, local: LocalGateway, embedder: Embedder, with_text: bool
    ) -> None:
        body = {"query": SOURCE, "texts": TEXTS, "return_text": with_text, "raw_scores": True}
        rows = local.post("/rerank", body).json()
        documents = embedder.encode_document(TEXTS)
        expected = embedder.similarity(embedder.encode_query(SOURCE), documents)[0] / 100
        assert [row["index"] for row in rows] == list(np.argsort(-expected))
        for row in rows:
            assert row["score"] == pytest.approx(expected[row["index"]], abs=1e-5)
            assert row.get("text") == (TEXTS[row["index"]] if with_text else None)

    @pytest.mark.parametrize(
        ("change", "start"),
        [
            ({"query": ""}, "query: received blank text"),
            ({"texts": []}, "texts: received no text"),
            ({"texts": ["a", 5]}, "texts[1]: received 5"),
            ({"return_text": "yes"}, "return_text: received"),
            ({"raw_scores": 1}, "raw_scores: received 1"),
            ({"truncation_direction": "Left"}, "truncation_direction: received"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, change: dict[str, Any], start: str
    ) -> None:
        response = local.post("/rerank", {"query": SOURCE, "texts": TEXTS} | change)
        assert sentence_of(response, 400).startswith(start)
        assert isinstance(response.json()["error"], str)


HUGGING_FACE = [
    *(f"/{root}models/small{{}}" for root in ("", "hf-inference/")),
    *(f"/{root}models/small{{}}/pipeline/feature-extraction" for root in ("", "hf-inference/")),
    *(f"/{root}models/small{{}}/pipeline/sentence-similarity" for root in ("", "hf-inference/")),
    *(f"/pipeline/{task}/small{{}}" for task in ("feature-extraction", "sentence-similarity")),
]


class TestHuggingFacesOlderRoutes:
    @pytest.mark.parametrize("path", [*HUGGING_FACE, "/pipeline/feature-extraction"])
    @pytest.mark.parametrize(
        "more",
        [
            {"options": {"wait_for_model": True, "use_cache": True}},  # LangChain, langchain4j
            {"use_gpu": False, "wait_for_model": True},  # langchaingo
            {"parameters": {"normalize": True, "truncate": True}, "options": None},
        ],
    )
    def test_texts_become_a_list_of_vectors(
        self, local: LocalGateway, embedder: Embedder, path: str, more: dict[str, Any]
    ) -> None:
        found = local.post(path.format(""), {"inputs": TEXTS, **more}).json()
        expected = embedder.encode_document(TEXTS, normalize=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        one = local.post(path.format(""), {"inputs": TEXTS[0], **more}).json()
        np.testing.assert_allclose(one, expected[:1], atol=1e-5)

    @pytest.mark.parametrize("path", HUGGING_FACE)
    def test_the_ending_of_the_models_name_gives_the_prompt(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        expected = embedder.encode_query("snow")
        for suffix, more in (("-query", {}), ("", {"parameters": {"prompt_name": "query"}})):
            response = local.post(path.format(suffix), {"inputs": "snow", **more})
            assert cosine(response.json()[0], expected) >= 0.999999

    @pytest.mark.parametrize("path", [*HUGGING_FACE, "/pipeline/sentence-similarity"])
    def test_sentences_are_compared(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        body = {"inputs": {"source_sentence": SOURCE, "sentences": TEXTS}}
        source, texts = embedder.encode_document([SOURCE]), embedder.encode_document(TEXTS)
        expected = embedder.similarity(source, texts)[0] / 100
        found = local.post(path.format(""), body).json()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        if "{}" in path:
            query = embedder.encode_query([SOURCE])
            found = local.post(path.format("-query"), body).json()
            expected = embedder.similarity(query, texts)[0] / 100
            np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["intfloat/e5-mistral-7b-instruct", "a%2Fb", "a/b/pipeline"])
    def test_a_name_may_hold_slashes(self, name: str, fake: FakeBackend) -> None:
        names = dict.fromkeys(("a/b", "a/b/pipeline"), "e5-mistral-7b-instruct-query")
        local = LocalGateway(fake, model="e5-mistral-7b-instruct@0123456789ab", aliases=names)
        for path in HUGGING_FACE:
            response = local.post(path.replace("small{}", name), {"inputs": "a"})
            assert response.status_code == 200, path
            is_query = response.headers["x-e5-prompt"].startswith("query")
            assert is_query == name.startswith("a")

    @pytest.mark.parametrize("path", HUGGING_FACE)
    def test_what_is_wrong_is_named_as_a_string(self, local: LocalGateway, path: str) -> None:
        response = local.post(path.format(""), {"inputs": ["a", " "]})
        sentence = sentence_of(response, 400)
        assert sentence.startswith("inputs[1]: received blank text")
        assert response.json()["error"] == sentence
        response = local.post(path.format("-nothing"), {"inputs": "a"})
        assert 'received "small-nothing"' in sentence_of(response, 404)

    def test_other_tasks_are_not_here(self, fake: FakeBackend) -> None:
        response = LocalGateway(fake).post("/pipeline/summarization/small", {"inputs": "a"})
        assert response.json()["error"] == sentence_of(response, 404)


def test_info_says_what_is_served(local: LocalGateway, embedder: Embedder) -> None:
    told = local.get("/info").json()
    name, _, fingerprint = embedder.name.partition("@")
    assert told["model_id"] == name
    assert told["model_sha"] == fingerprint
    assert told["max_input_length"] == embedder.max_length
    assert told["max_batch_tokens"] == embedder.max_batch_tokens
    assert told["max_client_batch_size"] == 2048
    assert told["auto_truncate"] is True


def test_info_of_a_backend_that_is_gone_is_a_refusal(fake: FakeBackend) -> None:
    fake.info_outcome = OSError("secret")
    assert "secret" not in sentence_of(LocalGateway(fake).get("/info"), 502)
