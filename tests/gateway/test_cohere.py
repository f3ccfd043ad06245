"""Cohere's embed and rerank, both versions; and the rerank of Voyage, Jina and vLLM."""

import base64
import doctest
from typing import Any, get_args

import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, cosine, sentence_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from e5.corpora import encode_vectors
from e5.embedder import Embedder
from e5.gateway import cohere
from e5.gateway.cohere import EmbeddingType, quantize
from e5.prompts import TASKS
from e5.vectors import Vectors

TYPES = get_args(EmbeddingType)

TEXTS = ["snow", "ice and more ice", "a"]
QUERY = "what is frozen water"
DOCUMENTS = ["Snow is frozen water.", "A summit is a mountain top.", "Ice is cold.", "Tea is hot."]

BATCHES = stn.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([1, 7, 8, 64, 4096])),
    elements=st.floats(-1, 1, width=32, allow_subnormal=False),
)


def embeddings(local: LocalGateway, version: int, **more: Any) -> Any:
    response = local.post(f"/v{version}/embed", {"texts": TEXTS, **more})
    assert response.status_code == 200, response.text
    return response.json()["embeddings"]


class TestEmbed:
    @pytest.mark.parametrize(
        ("role", "side"),
        [
            ("search_query", "query"),
            ("search_document", "document"),
            ("classification", "symmetric"),
            ("clustering", "symmetric"),
            (None, "document"),
        ],
    )
    @pytest.mark.parametrize("version", [1, 2])
    def test_a_role_gets_its_vector(
        self, local: LocalGateway, embedder: Embedder, version: int, role: str | None, side: str
    ) -> None:
        more = {"model": "small", "input_type": role, "embedding_types": ["float"]}
        found = embeddings(local, version, **more)["float"]
        expected = (
            embedder.encode_document(TEXTS)
            if side == "document"
            else embedder.encode_query(
                TEXTS, task="web_search_query" if side == "query" else "sts_query"
            )
        )
        for one, other in zip(found, expected, strict=True):
            assert cosine(one, other) >= 0.999999
            assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)

    def test_version_1_without_types_is_flat_and_both_have_what_clients_need(
        self, local: LocalGateway
    ) -> None:
        first = local.post("/v1/embed", {"texts": TEXTS, "model": "small"}).json()
        assert first["response_type"] == "embeddings_floats"
        assert np.shape(first["embeddings"]) == (3, 64)
        assert first["texts"] == TEXTS
        second = local.post("/v2/embed", {"texts": TEXTS, "model": "small"}).json()
        assert second["response_type"] == "embeddings_by_type"
        assert second["embeddings"] == {"float": first["embeddings"]}
        for version, answer in (("1", first), ("2", second)):
            assert answer["id"]
            assert answer["meta"]["billed_units"]["input_tokens"] > 0
            assert answer["meta"]["api_version"]["version"] == version

    @pytest.mark.parametrize("version", [1, 2])
    def test_every_type_is_the_same_vector(self, local: LocalGateway, version: int) -> None:
        found = embeddings(local, version, embedding_types=list(TYPES))
        assert set(found) == set(TYPES)
        floats = np.array(found["float"], np.float32)
        decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in found["base64"]]
        np.testing.assert_array_equal(decoded, floats)
        for row, int8, uint8 in zip(floats, found["int8"], found["uint8"], strict=True):
            assert cosine(row, int8) >= 0.9999
            assert cosine(row, np.array(uint8) - 128.0) >= 0.9999
        bits = np.unpackbits(np.array(found["ubinary"], np.uint8), axis=1)
        np.testing.assert_array_equal(bits, floats > 0)
        np.testing.assert_array_equal(np.array(found["binary"]) + 128, found["ubinary"])

    def test_types_that_are_asked_for_twice_come_once(self, local: LocalGateway) -> None:
        assert list(embeddings(local, 2, embedding_types=["int8", "float", "int8"])) == [
            "int8",
            "float",
        ]

    @pytest.mark.parametrize("wrong", ["float", [], ["floats"], [None], [["float"]], 5])
    def test_other_types_are_refused(self, local: LocalGateway, wrong: Any) -> None:
        response = local.post("/v2/embed", {"texts": TEXTS, "embedding_types": wrong})
        assert sentence_of(response, 400).startswith("embedding_types")

    def test_dimensions_are_kept(self, local: LocalGateway, embedder: Embedder) -> None:
        found = embeddings(local, 2, output_dimension=8)["float"]
        expected = embedder.encode_document(TEXTS, dimensions=8, normalize=True)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        response = local.post("/v2/embed", {"texts": TEXTS, "output_dimension": 9999})
        assert sentence_of(response, 400) == "output_dimension: received 9999; use 1 to 64."

    def test_version_2_takes_inputs_of_parts(self, local: LocalGateway) -> None:
        inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
        found = local.post("/v2/embed", {"inputs": inputs}).json()["embeddings"]["float"]
        assert found == embeddings(local, 2)["float"]
        parts = [{"content": [{"type": "text", "text": text} for text in TEXTS]}]
        joined = local.post("/v2/embed", {"inputs": parts}).json()["embeddings"]["float"]
        whole = local.post("/v2/embed", {"texts": ["\n".join(TEXTS)]}).json()["embeddings"]["float"]
        assert joined == whole

    @pytest.mark.parametrize(
        "item",
        ["snow", {}, {"content": []}, {"content": "a"}, {"content": [{"type": "image_url"}]}, None],
    )
    def test_an_input_that_is_no_text_is_named(self, local: LocalGateway, item: Any) -> None:
        good = {"content": [{"type": "text", "text": "snow"}]}
        response = local.post("/v2/embed", {"inputs": [good, item]})
        assert sentence_of(response, 400).startswith("inputs[1]: received ")

    def test_inputs_that_are_no_list_are_not_asked_for_strings(self, local: LocalGateway) -> None:
        assert sentence_of(local.post("/v2/embed", {"inputs": {}}), 400) == (
            "inputs: received {}; send a list."
        )

    def test_images_and_too_many_inputs_are_refused(self, local: LocalGateway) -> None:
        for texts in ({}, {"texts": ["a"]}):
            response = local.post("/v2/embed", {"images": ["data:..."], **texts})
            sentence = sentence_of(response, 400)
            assert sentence == "images: received images; send texts: this model reads nothing else."
        good = {"content": [{"type": "text", "text": "snow"}]}
        sentence = sentence_of(local.post("/v2/embed", {"inputs": [good] * 3000}), 400)
        assert sentence.startswith("inputs: received 3000 texts")

    @pytest.mark.parametrize("version", [1, 2])
    def test_a_bad_text_and_a_bad_model_are_named(self, local: LocalGateway, version: int) -> None:
        path = f"/v{version}/embed"
        assert sentence_of(local.post(path, {"texts": ["a", ""]}), 400).startswith("texts[1]: ")
        assert sentence_of(local.post(path, {"texts": "a"}), 400).startswith("texts: ")
        assert sentence_of(local.post(path, {}), 400) == "texts: received nothing; send it."
        assert '"embed-v4"' in sentence_of(
            local.post(path, {"texts": ["a"], "model": "embed-v4"}), 404
        )

    @pytest.mark.parametrize(("say", "cuts"), [("END", True), ("NONE", False), (None, True)])
    def test_truncate_reaches_the_service(
        self, fake: FakeBackend, say: str | None, cuts: bool
    ) -> None:
        assert (
            LocalGateway(fake).post("/v2/embed", {"texts": ["a"], "truncate": say}).status_code
            == 200
        )
        assert fake.asked[-1].truncate is cuts

    def test_start_is_refused(self, local: LocalGateway) -> None:
        sentence = sentence_of(local.post("/v2/embed", {"texts": ["a"], "truncate": "START"}), 400)
        assert sentence == 'truncate: received "START"; send one of NONE, END, true, false.'


class TestRerank:
    def scores(self, embedder: Embedder, task: str, symmetric: bool = False) -> Vectors:
        query = embedder.encode_query(QUERY, task=task)
        documents = embedder.encode_document(DOCUMENTS, task=task, symmetric=symmetric)
        scores: Vectors = embedder.similarity(query, documents)[0] / 100
        return scores

    @pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
    def test_documents_come_best_first_with_their_cosine(
        self, local: LocalGateway, embedder: Embedder, path: str
    ) -> None:
        body = {"query": QUERY, "documents": DOCUMENTS, "model": "small"}
        response = local.post(path, body)
        expected = self.scores(embedder, "web_search_query")
        for rows in (response.json()["results"], response.json()["data"]):
            assert [row["index"] for row in rows] == list(np.argsort(-expected))
            for row in rows:
                assert row["relevance_score"] == pytest.approx(expected[row["index"]], abs=1e-5)
                assert set(row) == {"index", "relevance_score"}
        assert response.json()["model"] == "small"
        assert response.json()["usage"]["total_tokens"] > 0
        assert response.json()["meta"]["billed_units"]["search_units"] == 1
        assert response.headers["x-e5-prompt"].startswith('query "Given a web search query')

    @pytest.mark.parametrize("name", ["top_n", "top_k"])
    def test_only_the_best_come_where_asked(self, local: LocalGateway, name: str) -> None:
        body = {"query": QUERY, "documents": DOCUMENTS}
        every = local.post("/rerank", body).json()["results"]
        assert local.post("/rerank", {**body, name: 2}).json()["results"] == every[:2]
        assert local.post("/rerank", {**body, name: 99}).json()["results"] == every
        sentence = sentence_of(local.post("/rerank", {**body, name: 0}), 400)
        assert sentence == f"{name}: received 0; send 1 or more."

    def test_documents_may_be_objects_and_come_back_where_asked(self, local: LocalGateway) -> None:
        body = {
            "query": QUERY,
            "documents": [{"text": text, "id": i} for i, text in enumerate(DOCUMENTS)],
            "return_documents": True,
        }
        answer = local.post("/v1/rerank", body).json()
        for row, datum in zip(answer["results"], answer["data"], strict=True):
            assert row["document"] == {"text": DOCUMENTS[row["index"]]}  # Cohere, Jina
            assert datum["document"] == DOCUMENTS[row["index"]]  # Voyage

    @pytest.mark.parametrize("field", ["task", "instruction"])
    def test_the_task_can_be_set(self, local: LocalGateway, embedder: Embedder, field: str) -> None:
        for task in ("SciFact", "Find what cools a drink", "sts_query"):
            body = {"query": QUERY, "documents": DOCUMENTS, field: task}
            rows = local.post("/rerank", body).json()["results"]
            symmetric = task in TASKS and TASKS[task].symmetric
            expected = self.scores(embedder, task, symmetric)
            for row in rows:
                assert row["relevance_score"] == pytest.approx(expected[row["index"]], abs=1e-5)

    @pytest.mark.parametrize(
        ("change", "start"),
        [
            ({"query": None}, "query: received nothing"),
            ({"query": ""}, "query: received blank text"),
            ({"query": 5}, "query: received 5"),
            ({"documents": []}, "documents: received no text"),
            ({"documents": ["a", 5]}, "documents[1]: received 5"),
            ({"documents": ["a", {"title": "b"}]}, "documents[1]: received an object without text"),
            ({"documents": "a"}, 'documents: received "a"'),
            ({"documents": ["a"] * 2048}, "documents: received 2049 texts"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, change: dict[str, Any], start: str
    ) -> None:
        body = {"query": QUERY, "documents": DOCUMENTS} | change
        assert sentence_of(local.post("/v2/rerank", body), 400).startswith(start)

    def test_objects_are_ranked_by_the_fields_that_are_named(
        self, local: LocalGateway, embedder: Embedder
    ) -> None:
        documents = [
            {"title": f"Title {i}", "body": text, "page": i} for i, text in enumerate(DOCUMENTS)
        ]
        joined = {
            ("body",): DOCUMENTS,
            ("title", "body"): [f"Title {i}\n{text}" for i, text in enumerate(DOCUMENTS)],
            ("body", "page", "no"): [f"{text}\n{i}" for i, text in enumerate(DOCUMENTS)],
        }
        query = embedder.encode_query([QUERY])
        for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
            for fields, texts in joined.items():
                body = {"query": QUERY, "documents": documents, "rank_fields": list(fields)}
                answer = local.post(path, body | {"return_documents": True}).json()
                expected = embedder.similarity(query, embedder.encode_document(texts))[0] / 100
                assert [row["index"] for row in answer["results"]] == list(np.argsort(-expected))
                for row in answer["results"]:
                    score = pytest.approx(expected[row["index"]], abs=1e-5)
                    assert row["relevance_score"] == score
                    assert row["document"] == {"text": texts[row["index"]]}

    @pytest.mark.parametrize(
        ("documents", "fields", "start"),
        [
            (["a", {"title": "b"}], ["body"], 'documents[1]: received an object without "body"'),
            ([{"body": "a"}], [], "documents[0]: received an object without text"),
            ([{"body": " "}], ["body"], "documents[0]: received blank text"),
            ([{"body": "a"}], "body", 'rank_fields: received "body"'),
            ([{"body": "a"}], [5], "rank_fields[0]: received 5"),
            ([{"text": 5}], None, "documents[0]: received 5"),
        ],
    )
    def test_an_object_without_them_is_named(
        self, local: LocalGateway, documents: list[Any], fields: Any, start: str
    ) -> None:
        body = {"query": QUERY, "documents": documents, "rank_fields": fields}
        assert sentence_of(local.post("/v1/rerank", body), 400).startswith(start)


class TestAtTheRoot:
    """Clients whose base URL has no version ask the routes of text-embeddings-inference."""

    def test_texts_are_embedded_for_coheres_clients(
        self, local: LocalGateway, embedder: Embedder
    ) -> None:
        body = {"texts": TEXTS, "model": "small", "input_type": "search_query"}
        expected = embedder.encode_query(TEXTS, normalize=True)
        flat = local.post("/embed", body).json()
        np.testing.assert_allclose(flat["embeddings"], expected, atol=1e-5)
        by_type = local.post("/embed", body | {"embedding_types": ["float", "int8"]}).json()
        np.testing.assert_allclose(by_type["embeddings"]["float"], expected, atol=1e-5)
        assert by_type["meta"]["billed_units"]["input_tokens"] > 0

    def test_inputs_are_still_those_of_the_other_clients(self, local: LocalGateway) -> None:
        found = local.post("/embed", {"inputs": TEXTS, "texts": ["a"]}).json()
        assert np.shape(found) == (3, 64)
        refused = local.post("/embed", {"texts": ["a", " "]})
        assert sentence_of(refused, 400).startswith("texts[1]: received blank text")
        assert sentence_of(local.post("/embed", {}), 400).startswith("inputs: received nothing")


class TestQuantize:
    @given(BATCHES)
    def test_int8_and_uint8_are_the_nearest_steps(self, vectors: Vectors) -> None:
        int8, uint8 = quantize(vectors, "int8"), quantize(vectors, "uint8")
        assert [int8.dtype, uint8.dtype] == [np.dtype(np.int8), np.dtype(np.uint8)]
        np.testing.assert_array_equal(uint8.astype(int) - 128, int8)
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        np.testing.assert_allclose(int8 * largest / 127, vectors, atol=largest.max() / 250)

    def test_vectors_of_the_models_size_keep_their_direction(self) -> None:
        rows = np.random.default_rng(0).standard_normal((20, 4096)).astype(np.float32)
        for row, steps in zip(rows, quantize(rows, "int8"), strict=True):
            assert cosine(row, steps) >= 0.9999

    @given(BATCHES)
    def test_binary_is_exactly_the_signs(self, vectors: Vectors) -> None:
        ubinary, binary = quantize(vectors, "ubinary"), quantize(vectors, "binary")
        assert [ubinary.dtype, binary.dtype] == [np.dtype(np.uint8), np.dtype(np.int8)]
        bits = np.unpackbits(ubinary, axis=1)[:, : vectors.shape[1]]
        np.testing.assert_array_equal(bits, vectors > 0)
        np.testing.assert_array_equal(binary.astype(int) + 128, ubinary)

    @pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
    @pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e38])
    def test_any_float32_has_its_steps(self, kind: str, scale: float) -> None:
        vectors = np.array([[scale, -scale, 0]], np.float32)
        steps = quantize(vectors, kind)
        if kind == "int8":
            np.testing.assert_array_equal(steps, np.sign(vectors) * 127)


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(cohere, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_fewer_bits_are_those_of_stored_corpora() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    assert (quantize(vectors, "int8") == encode_vectors(vectors, "int8")).all()
    assert (quantize(vectors, "ubinary") == encode_vectors(vectors, "binary")).all()
