"""Google's embedContent and batchEmbedContents, and Vertex AI's predict."""

from typing import Any

import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, cosine, sentence_of

from e5.embedder import Embedder
from e5.gateway.google import TASK_TYPES
from e5.vectors import Vectors

TEXTS = ["snow", "ice and more ice", "a\nline"]
STUDIO = "/v1beta/models/small"
VERTEX = "/v1/projects/p/locations/us-central1/publishers/google/models/small"
SIDES = {
    "TASK_TYPE_UNSPECIFIED": "document",
    "RETRIEVAL_QUERY": "query",
    "RETRIEVAL_DOCUMENT": "document",
    "SEMANTIC_SIMILARITY": "symmetric",
    "CLASSIFICATION": "symmetric",
    "CLUSTERING": "symmetric",
    "QUESTION_ANSWERING": "query",
    "FACT_VERIFICATION": "query",
    "CODE_RETRIEVAL_QUERY": "query",
}


def content(*parts: str) -> dict[str, Any]:
    return {"parts": [{"text": part} for part in parts], "role": "user"}


def batch(*requests: dict[str, Any]) -> dict[str, Any]:
    return {"requests": [{"model": "models/small", **request} for request in requests]}


def vectors_of(response: Any) -> list[list[float]]:
    """The vectors of any of the three answers."""
    assert response.status_code == 200, response.text
    body = response.json()
    if "predictions" in body:
        return [each["embeddings"]["values"] for each in body["predictions"]]
    return [each["values"] for each in body.get("embeddings") or [body["embedding"]]]


def embed(local: LocalGateway, form: str, text: str, **options: Any) -> list[float]:
    """One text by one of the forms."""
    if form == "predict":
        instances = {"instances": [{"content": text, **options}]}
        return vectors_of(local.post(f"{VERTEX}:predict", instances))[0]
    if form == "embedContent":
        body = {"content": content(text), **options}
        return vectors_of(local.post(f"{STUDIO}:embedContent", body))[0]
    body = batch({"content": content(text), **options})
    return vectors_of(local.post(f"{STUDIO}:batchEmbedContents", body))[0]


def truth(embedder: Embedder, side: str, text: str) -> Vectors:
    if side == "document":
        return embedder.encode_document(text)
    task = "web_search_query" if side == "query" else "sts_query"
    return embedder.encode_query(text, task=task)


class TestTasks:
    def test_all_of_googles_are_here_in_its_order(self) -> None:
        assert list(SIDES) == list(TASK_TYPES)

    @pytest.mark.parametrize("form", ["embedContent", "batchEmbedContents", "predict"])
    @pytest.mark.parametrize("task", SIDES)
    def test_a_task_gets_its_vector_by_name_and_by_number(
        self, local: LocalGateway, embedder: Embedder, form: str, task: str
    ) -> None:
        expected = truth(embedder, SIDES[task], "snow")
        for value in (task, task.lower(), TASK_TYPES.index(task)):
            for name in ("taskType", "task_type"):
                found = embed(local, form, "snow", **{name: value})
                assert cosine(found, expected) >= 0.999999
                assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)

    def test_the_ending_of_the_models_name_is_a_task_too(
        self, local: LocalGateway, embedder: Embedder
    ) -> None:
        body = {"content": content("snow"), "model": "models/small"}
        response = local.post("/v1/models/small-query:embedContent", body)
        assert cosine(vectors_of(response)[0], embedder.encode_query("snow")) >= 0.999999
        refused = local.post(
            "/v1/models/small-query:embedContent", body | {"taskType": "RETRIEVAL_DOCUMENT"}
        )
        assert sentence_of(refused, 400).startswith('taskType: received "RETRIEVAL_DOCUMENT"')

    def test_queries_and_documents_may_stand_in_one_request(
        self, local: LocalGateway, embedder: Embedder
    ) -> None:
        tasks = ["RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY", None, "FACT_VERIFICATION"]
        texts = [*TEXTS, "last"]
        pairs = list(zip(texts, tasks, strict=True))
        requests = [{"content": content(text), "taskType": task} for text, task in pairs]
        found = vectors_of(local.post(f"{STUDIO}:batchEmbedContents", batch(*requests)))
        instances = [{"content": text, "task_type": task} for text, task in pairs]
        same = vectors_of(local.post(f"{VERTEX}:predict", {"instances": instances}))
        for (text, task), one, other in zip(pairs, found, same, strict=True):
            side = "query" if task in ("RETRIEVAL_QUERY", "FACT_VERIFICATION") else "document"
            assert cosine(one, truth(embedder, side, text)) >= 0.999999
            assert cosine(other, one) >= 0.999999

    def test_two_prompts_in_one_request_are_refused(self, local: LocalGateway) -> None:
        tasks = ["RETRIEVAL_QUERY", "CLUSTERING"]
        requests = [{"content": content("a"), "taskType": task} for task in tasks]
        refused = local.post(f"{STUDIO}:batchEmbedContents", batch(*requests))
        assert sentence_of(refused, 400).startswith(
            'requests[1].taskType: received "CLUSTERING", where requests[0].taskType says'
        )


class TestBodies:
    def test_many_texts_keep_their_order(self, local: LocalGateway, embedder: Embedder) -> None:
        texts = [f"note {i}" for i in range(300)]
        requests = [{"content": content(text)} for text in texts]
        found = vectors_of(local.post(f"{STUDIO}:batchEmbedContents", batch(*requests)))
        expected = embedder.encode_document(texts, normalize=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        instances = [{"content": text} for text in texts]
        found = vectors_of(local.post(f"{VERTEX}:predict", {"instances": instances}))
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_parts_are_one_text(self, local: LocalGateway, embedder: Embedder) -> None:
        body = {"content": content("Snow", "Frozen water.")}
        [found] = vectors_of(local.post(f"{STUDIO}:embedContent", body))
        assert cosine(found, embedder.encode_document("Snow\nFrozen water.")) >= 0.999999

    @pytest.mark.parametrize("form", ["embedContent", "batchEmbedContents", "predict"])
    def test_a_title_stands_before_its_document(
        self, local: LocalGateway, embedder: Embedder, form: str
    ) -> None:
        expected = embedder.encode_document("Snow Frozen water.")
        for task in (None, "RETRIEVAL_DOCUMENT"):
            found = embed(local, form, "Frozen water.", taskType=task, title="Snow")
            assert cosine(found, expected) >= 0.999999
        bare = embedder.encode_document("Frozen water.")
        assert cosine(embed(local, form, "Frozen water.", title=" "), bare) >= 0.999999

    def test_a_query_has_no_title(self, local: LocalGateway) -> None:
        body = {"content": content("a"), "taskType": "RETRIEVAL_QUERY", "title": "T"}
        sentence = sentence_of(local.post(f"{STUDIO}:embedContent", body), 400)
        assert sentence.startswith('title: received "T"; send it with RETRIEVAL_DOCUMENT')

    @pytest.mark.parametrize("name", ["outputDimensionality", "output_dimensionality"])
    def test_dimensions(self, local: LocalGateway, embedder: Embedder, name: str) -> None:
        expected = embedder.encode_document("snow", dimensions=8, normalize=True)
        for form in ("embedContent", "batchEmbedContents"):
            np.testing.assert_allclose(embed(local, form, "snow", **{name: 8}), expected, atol=1e-5)
        body = {"instances": [{"content": "snow"}], "parameters": {name: 8}}
        [found] = vectors_of(local.post(f"{VERTEX}:predict", body))
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_the_config_of_vertex_ai(self, local: LocalGateway, embedder: Embedder) -> None:
        config = {"taskType": "RETRIEVAL_QUERY", "outputDimensionality": 8, "autoTruncate": True}
        expected = embedder.encode_query("snow", dimensions=8, normalize=True)
        request: dict[str, Any] = {"content": content("snow"), "embedContentConfig": config}
        for method, body in (("embedContent", request), ("batchEmbedContents", batch(request))):
            [found] = vectors_of(local.post(f"{VERTEX}:{method}", body))
            np.testing.assert_allclose(found, expected, atol=1e-5)
        request["taskType"] = "RETRIEVAL_DOCUMENT"  # what stands beside the text counts first
        [found] = vectors_of(local.post(f"{VERTEX}:embedContent", request))
        assert cosine(found, embedder.encode_document("snow", dimensions=8)) >= 0.999999

    def test_vertex_ai_says_how_many_tokens_were_read(self, local: LocalGateway) -> None:
        body = {"instances": [{"content": "snow " * 5000}, {"content": "snow"}]}
        first, second = local.post(f"{VERTEX}:predict", body).json()["predictions"]
        assert first["embeddings"]["statistics"] == {"token_count": 4096, "truncated": True}
        assert second["embeddings"]["statistics"]["truncated"] is False

    def test_a_long_text_may_be_refused(self, local: LocalGateway) -> None:
        body = {"instances": [{"content": "snow " * 5000}], "parameters": {"autoTruncate": False}}
        sentence = sentence_of(local.post(f"{VERTEX}:predict", body), 400)
        assert sentence.startswith("instances[0].content: received a text of")

    @pytest.mark.parametrize(
        "path",
        [
            *(f"/{version}/models/small" for version in ("v1", "v1beta")),
            *(f"/{version}/publishers/google/models/small" for version in ("v1", "v1beta1")),
            "/v1beta1/projects/p/locations/l/publishers/google/models/small",
        ],
    )
    def test_every_version_of_the_urls(self, path: str, fake: FakeBackend) -> None:
        local = LocalGateway(fake)
        assert len(vectors_of(local.post(f"{path}:embedContent", {"content": content("a")}))) == 1
        body = batch({"content": content("a")}, {"content": content("b")})
        assert len(vectors_of(local.post(f"{path}:batchEmbedContents", body))) == 2

    def test_a_name_may_hold_a_slash(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake, model="e5-mistral-7b-instruct@0123456789ab")
        for name in ("intfloat/e5-mistral-7b-instruct", "intfloat%2Fe5-mistral-7b-instruct-query"):
            path = f"/v1beta/models/{name}:embedContent"
            assert local.post(path, {"content": content("a")}).status_code == 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "body", "start"),
        [
            ("embedContent", {}, "content: received nothing"),
            ("embedContent", {"content": {"parts": []}}, "content.parts: received []"),
            ("embedContent", {"content": [content("a")]}, "content: received a list"),
            ("embedContent", {"content": "a"}, 'content: received "a"'),
            (
                "embedContent",
                {"content": {"parts": [{"text": "a"}, {"inlineData": {}}]}},
                "content.parts[1].text: received nothing",
            ),
            ("embedContent", {"content": content("")}, "content.parts[0].text: received blank"),
            ("embedContent", {"content": content(" ", "")}, "content.parts: received blank"),
            (
                "embedContent",
                {"content": content("a"), "taskType": "SNOW"},
                'taskType: received "SNOW"; send one of TASK_TYPE_UNSPECIFIED, RETRIEVAL_QUERY',
            ),
            ("embedContent", {"content": content("a"), "task_type": 9}, "task_type: received 9"),
            ("embedContent", {"content": content("a"), "taskType": True}, "taskType: received tr"),
            (
                "embedContent",
                {"content": content("a"), "outputDimensionality": 65},
                "outputDimensionality: received 65",
            ),
            ("batchEmbedContents", {"requests": []}, "requests: received []"),
            ("batchEmbedContents", {"requests": "a"}, 'requests: received "a"'),
            (
                "batchEmbedContents",
                {"requests": [{}] * 2049},
                "requests: received 2049 texts; send at most 2048 in one request.",
            ),
            (
                "batchEmbedContents",
                batch({"content": content("a")}, {"content": content(" ")}),
                "requests[1].content.parts[0].text: received blank text",
            ),
            (
                "batchEmbedContents",
                batch({"content": content("a")}, {"content": content("a"), "taskType": "x"}),
                'requests[1].taskType: received "x"',
            ),
            (
                "batchEmbedContents",
                batch(
                    {"content": content("a"), "outputDimensionality": 8},
                    {"content": content("a"), "outputDimensionality": 4},
                ),
                "requests[1].outputDimensionality: received 4, where requests[0].output",
            ),
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, method: str, body: dict[str, Any], start: str
    ) -> None:
        response = local.post(f"{STUDIO}:{method}", body)
        assert sentence_of(response, 400).startswith(start)
        assert response.json()["error"]["status"] == "INVALID_ARGUMENT"

    @pytest.mark.parametrize(
        ("body", "start"),
        [
            ({"instances": [{"content": "a"}, {"content": " "}]}, "instances[1].content: received"),
            ({"instances": [{"text": "a"}]}, "instances[0].content: received nothing"),
            ({"instances": {}}, "instances: received {}"),
            (
                {"instances": [{"content": "a"}], "parameters": {"outputDimensionality": 65}},
                "parameters.outputDimensionality: received 65",
            ),
        ],
    )
    def test_vertex_ai_s_form_has_the_same(
        self, local: LocalGateway, body: dict[str, Any], start: str
    ) -> None:
        response = local.post(f"{VERTEX}:predict", body)
        assert sentence_of(response, 400).startswith(start)
        assert response.json()["error"]["code"] == 400

    def test_vertex_ais_task_has_its_own_name(self, local: LocalGateway) -> None:
        body = {"instances": [{"content": "a", "task_type": "RETRIEVAL_QUERY"}]}
        refused = local.post(f"{VERTEX}-passage:predict", body)
        assert sentence_of(refused, 400).startswith("instances[0].task_type: received")

    @pytest.mark.parametrize(
        ("method", "path", "status", "word"),
        [
            ("POST", "/v1beta/models/gpt:embedContent", 404, "NOT_FOUND"),
            ("GET", "/v1beta/models/gpt", 404, "NOT_FOUND"),
            ("POST", f"{STUDIO}:generateContent", 405, "INVALID_ARGUMENT"),
            ("POST", "/v1/models/small:generateContent", 405, "INVALID_ARGUMENT"),
            ("POST", f"{VERTEX}:rawPredict", 404, "NOT_FOUND"),
            ("GET", "/v1beta/corpora", 404, "NOT_FOUND"),
        ],
    )
    def test_what_is_not_here_is_said_as_google_says_it(
        self, method: str, path: str, status: int, word: str, fake: FakeBackend
    ) -> None:
        response = LocalGateway(fake).send(method, path, json={"content": content("a")})
        sentence = sentence_of(response, status)
        told = response.json()["error"]
        assert told == {"code": status, "message": sentence, "status": word}
