"""OpenAI's embeddings and models, with the fields of each client that sends them."""

import base64
from typing import Any

import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, cosine, sentence_of

from e5.embedder import Embedder
from e5.gateway.roles import PromptChoice
from e5.gateway.wire import MAX_TEXTS, TOKEN_IDS_REMEDY
from e5.prompts import DEFAULT_TASK

ROUTES = ["/v1/embeddings", "/embeddings"]
WEB = PromptChoice(DEFAULT_TASK, "query").header


def vectors_of(answer: dict[str, Any]) -> list[Any]:
    return [row["embedding"] for row in answer["data"]]


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_has_all_that_a_client_reads(
    local: LocalGateway, embedder: Embedder, route: str
) -> None:
    response = local.post(route, {"input": ["snow", "ice"], "model": "small", "user": "u"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["object"] == "list"
    assert answer["id"]  # Mistral's clients
    assert answer["model"] == "small"
    assert [(row["object"], row["index"]) for row in answer["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    tokens = [len(e.token_ids) for e in embedder.tokenize(documents=["snow", "ice"])]
    assert answer["usage"] == {
        "prompt_tokens": sum(tokens),
        "total_tokens": sum(tokens),
        "tokens": tokens,
        "truncated": [False, False],
    }
    assert response.headers["x-e5-model"] == embedder.name
    assert response.headers["x-e5-prompt"] == "document"
    assert response.headers["x-e5-truncated"] == "0/2"


@pytest.mark.parametrize(
    ("more", "header"),
    [
        ({}, "document"),  # OpenAI, LangChain, LlamaIndex
        ({"model": "small"}, "document"),
        ({"model": "small-query"}, WEB),  # Haystack, Vercel's AI SDK, NVIDIA
        ({"model": "small-passage"}, "document"),
        ({"model": "text-embedding-3-small"}, "document"),
        ({"input_type": "query", "truncate": "NONE"}, WEB),  # NVIDIA
        ({"input_type": "passage", "truncate": "NONE"}, "document"),
        ({"input_type": None, "truncation": True, "output_dtype": None}, "document"),  # Voyage
        ({"input_type": "query", "truncation": True, "output_dimension": None}, WEB),
        ({"task": "retrieval.query"}, WEB),  # Jina
        ({"task": "retrieval.passage"}, "document"),
        ({"task": "text-matching"}, 'symmetric "Retrieve semantically similar text."'),
        ({"input_type": "web_search_query"}, WEB),  # vLLM
        ({"input_type": "Find twins of this"}, 'query "Find twins of this"'),
    ],
)
def test_a_role_decides_the_prompt(
    local: LocalGateway, embedder: Embedder, more: dict[str, Any], header: str
) -> None:
    response = local.post("/v1/embeddings", {"input": "snow", **more})
    assert response.headers["x-e5-prompt"] == header
    side, _, instruction = header.partition(" ")
    task = instruction.strip('"')
    expected = (
        embedder.encode_document("snow")
        if side == "document"
        else embedder.encode_query("snow", task=task)
    )
    assert cosine(vectors_of(response.json())[0], expected) >= 0.999999


def test_vectors_are_normalised_unless_asked_otherwise(
    local: LocalGateway, embedder: Embedder
) -> None:
    usual = local.post("/v1/embeddings", {"input": "snow"}).json()
    assert np.linalg.norm(vectors_of(usual)[0]) == pytest.approx(1, abs=1e-6)
    raw = local.post("/v1/embeddings", {"input": "snow", "normalize": False}).json()
    np.testing.assert_allclose(vectors_of(raw)[0], embedder.encode_document("snow"), rtol=1e-5)


@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
def test_dimensions_are_kept_before_normalising(
    local: LocalGateway, embedder: Embedder, name: str
) -> None:
    (found,) = vectors_of(local.post("/v1/embeddings", {"input": "snow", name: 5}).json())
    expected = embedder.encode_document("snow", dimensions=5, normalize=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for wrong, remedy in ((65, "use 1 to 64"), (0, "send 1 or more"), (1.5, "send a whole number")):
        sentence = sentence_of(local.post("/v1/embeddings", {"input": "snow", name: wrong}), 400)
        assert sentence == f"{name}: received {wrong}; {remedy}."


def test_base64_holds_the_same_float32(local: LocalGateway) -> None:
    def ask(form: str | None) -> list[Any]:
        body = {"input": ["snow", "ice"], "encoding_format": form}
        return vectors_of(local.post("/v1/embeddings", body).json())

    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in ask("base64")]
    np.testing.assert_array_equal(decoded, np.array(ask("float"), np.float32))
    assert ask(None) == ask("float")


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokens", [[[12840, 374, 12056]], [12840, 374], [[1]] * 500, [[1, 2] * 4000] * 20]
)
def test_token_ids_are_refused_with_the_setting_that_helps(
    local: LocalGateway, tokens: Any
) -> None:
    sentence = sentence_of(local.post("/v1/embeddings", {"input": tokens}), 400)
    assert TOKEN_IDS_REMEDY in sentence
    assert "check_embedding_ctx_length=False" in sentence


def test_a_model_that_is_not_served_is_404_with_those_that_are(local: LocalGateway) -> None:
    response = local.post("/v1/embeddings", {"input": "snow", "model": "gpt-4"})
    sentence = sentence_of(response, 404)
    for name in ('"gpt-4"', "small", "small-query", "small-passage", "text-embedding-3-small"):
        assert name in sentence
    assert response.json()["error"]["param"] == "model"


@pytest.mark.slow
def test_a_long_text_is_cut_and_said_to_be_or_refused(
    fake: FakeBackend, local: LocalGateway
) -> None:
    long = "snow " * 5000
    response = local.post("/v1/embeddings", {"input": ["ice", long]})
    assert response.headers["x-e5-truncated"] == "1/2"
    assert response.json()["usage"]["truncated"] == [False, True]
    assert response.json()["usage"]["tokens"][1] == 4096
    for say in ({"truncate": "NONE"}, {"truncate": False}, {"truncation": False}):
        sentence = sentence_of(local.post("/v1/embeddings", {"input": ["ice", long], **say}), 400)
        assert sentence.startswith("input[1]: received a text of 5003 tokens")
    for say in ({"truncate": "END"}, {"truncate": True}, {"truncation": True}):
        local = LocalGateway(fake)
        assert local.post("/v1/embeddings", {"input": [long], **say}).status_code == 200
        assert fake.asked[-1].truncate


@pytest.mark.slow
def test_2048_texts_keep_their_order(local: LocalGateway, embedder: Embedder) -> None:
    texts = [f"number {i}" for i in range(MAX_TEXTS)]
    response = local.post("/v1/embeddings", {"input": texts, "dimensions": 32})
    found = np.array(vectors_of(response.json()))
    some = [0, 1, 777, 1024, 2046, 2047]
    expected = embedder.encode_document([texts[i] for i in some], dimensions=32, normalize=True)
    np.testing.assert_allclose(found[some], expected, atol=1e-4)
    assert len(np.unique(found.round(5), axis=0)) == MAX_TEXTS
    refused = local.post("/v1/embeddings", {"input": [*texts, "one more"]})
    assert sentence_of(refused, 400).startswith("input: received 2049 texts; send at most 2048")


def test_models_are_listed_and_described_one_by_one(local: LocalGateway) -> None:
    for path in ("/v1/models", "/models"):
        listed = local.get(path).json()
        assert listed["object"] == "list"
        assert listed["models"] == listed["data"]  # where Cohere's clients look
        names = [model["id"] for model in listed["data"]]
        assert names == ["small", "small-query", "small-passage", "text-embedding-3-small"]
        for name, model in zip(names, listed["data"], strict=True):
            assert {"id", "object", "created", "owned_by"} <= set(model)
            assert model["name"] == name  # Cohere's clients
            assert (model["type"], model["capabilities"]) == ("base", {})  # Mistral's
            assert local.get(f"{path}/{name}").json() == model
        assert '"gpt-4"' in sentence_of(local.get(f"{path}/gpt-4"), 404)
        assert local.get(f"{path}/").json() == listed
        assert '"a/b"' in sentence_of(local.get(f"{path}/a%2Fb"), 404)


AZURE_MODELS = [{}, {"model": "small-passage"}, {"model": "text-embedding-ada-002"}]


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments/{}/embeddings?api-version=2024-10-21",
        "/deployments/{}/embeddings",
        "/v1/deployments/{}/embeddings?api-version=2024-10-21",
        "/openai/v1/deployments/{}/embeddings",
        "/v1/openai/deployments/{}/embeddings",
        "/openai//openai/deployments/{}/embeddings/",
    ],
)
@pytest.mark.parametrize("more", AZURE_MODELS)
def test_azure_s_path_names_the_model_whatever_the_body_says(
    local: LocalGateway, embedder: Embedder, path: str, more: dict[str, str]
) -> None:
    truth = {
        "small": embedder.encode_document("snow"),
        "small-query": embedder.encode_query("snow"),
        "text-embedding-3-small": embedder.encode_document("snow"),
    }
    for name, vector in truth.items():
        answer = local.post(path.format(name), {"input": ["snow"], **more}, {"api-key": "any"})
        assert answer.json()["model"] == name
        assert cosine(vectors_of(answer.json())[0], vector) >= 0.999999
    refused = local.post(path.format("gpt-4"), {"input": ["snow"], "model": "small"})
    assert sentence_of(refused, 404).startswith('model: received "gpt-4"; send one of small, ')
    tokens = sentence_of(local.post(path.format("small"), {"input": [[5, 6]], **more}), 400)
    assert TOKEN_IDS_REMEDY in tokens


@pytest.mark.parametrize(
    "path", ["/openai/v1/embeddings", "/openai/embeddings", "/models/embeddings"]
)
def test_azure_s_other_paths_take_the_model_of_the_body(
    local: LocalGateway, embedder: Embedder, path: str
) -> None:
    url = f"{path}?api-version=2024-05-01-preview"
    (found,) = vectors_of(local.post(url, {"input": ["snow"], "model": "small-query"}).json())
    assert cosine(found, embedder.encode_query("snow")) >= 0.999999
    assert sentence_of(local.post(url, {"input": ["snow"], "model": "gpt-4"}), 404)


@pytest.mark.parametrize(
    "path", ["/openai/models", "/openai/v1/models", "/openai/deployments/x/models"]
)
def test_azure_s_clients_list_the_models_too(local: LocalGateway, path: str) -> None:
    listed = local.get(f"{path}?api-version=2024-10-21")
    assert listed.json() == local.get("/v1/models").json()


def test_a_name_with_a_slash_may_be_encoded_or_not() -> None:
    local = LocalGateway(FakeBackend(), model="e5-mistral-7b-instruct@0123456789ab")
    for name in ("intfloat/e5-mistral-7b-instruct", "intfloat%2Fe5-mistral-7b-instruct-query"):
        assert local.get(f"/v1/models/{name}").json()["id"] == name.replace("%2F", "/")
