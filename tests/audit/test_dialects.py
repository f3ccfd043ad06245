"""Each dialect sends what its own clients send, and reads what its servers answer."""

import json
from typing import Any

import pytest

from e5.audit.dialects import DIALECTS, Question
from e5.errors import InputError

TASK = "Given a question, find its answer"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("base", ["http://127.0.0.1:8080", "http://127.0.0.1:8080/"])
def test_a_base_url_becomes_that_of_the_route(dialect: str, base: str) -> None:
    route = DIALECTS[dialect].route.replace("{model}", "e5")
    url = f"http://127.0.0.1:8080/{route}"
    assert DIALECTS[dialect].url(base, "e5") == url
    assert DIALECTS[dialect].url(url, "e5") == url
    assert DIALECTS[dialect].url(f"{url}/", "e5") == url


@pytest.mark.parametrize(
    ("dialect", "given", "url"),
    [
        ("openai", "http://a/v1", "http://a/v1/embeddings"),
        ("openai", "http://a/e5/v1/", "http://a/e5/v1/embeddings"),
        ("openai", "http://a/proxy", "http://a/proxy/v1/embeddings"),
        ("openai", "http://a/api/v3", "http://a/api/v3/embeddings"),
        ("openai", "http://a/openai/deployments/b/embeddings?v=1", None),
        ("openai", "http://a/v1?v=1", "http://a/v1/embeddings?v=1"),
        ("cohere", "http://a/v1", "http://a/v1/embed"),
        ("cohere", "http://a/v1/embed", None),
        ("tei", "http://a/embed", None),
        ("ollama", "http://a/api", "http://a/api/embed"),
        ("google", "http://a/v1beta", "http://a/v1beta/models/e5:batchEmbedContents"),
        ("google", "http://a/v1/models/x:batchEmbedContents", None),
        ("cog", "http://a/e5", "http://a/e5/predictions"),
    ],
)
def test_a_version_or_a_whole_url_is_kept(dialect: str, given: str, url: str | None) -> None:
    assert DIALECTS[dialect].url(given, "models/e5") == (url or given)


def test_a_route_that_names_the_model_needs_its_name() -> None:
    with pytest.raises(InputError, match="model: received nothing; name it"):
        DIALECTS["google"].url("http://a", None)
    url = DIALECTS["google"].url("http://a", "a b/c")
    assert url == "http://a/v1beta/models/a%20b/c:batchEmbedContents"


BODIES: dict[str, list[dict[str, Any]]] = {
    "openai": [{"model": "e5", "input": ["a", "b"], "encoding_format": "float"}] * 2,
    "ollama": [{"model": "e5", "input": ["a", "b"], "truncate": True}] * 2,
    "tei": [{"inputs": ["a", "b"], "truncate": True}] * 2,
    "nvidia": [
        {
            "model": "e5",
            "input": ["a", "b"],
            "input_type": role,
            "encoding_format": "float",
            "truncate": "END",
        }
        for role in ("query", "passage")
    ],
    "voyage": [
        {"model": "e5", "input": ["a", "b"], "input_type": role, "truncation": True}
        for role in ("query", "document")
    ],
    "cohere": [
        {
            "model": "e5",
            "texts": ["a", "b"],
            "input_type": role,
            "embedding_types": ["float"],
            "truncate": "END",
        }
        for role in ("search_query", "search_document")
    ],
    "google": [
        {
            "requests": [
                {"model": "models/e5", "content": {"parts": [{"text": text}]}, "taskType": role}
                for text in ("a", "b")
            ]
        }
        for role in ("RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT")
    ],
    "cog": [
        {"input": {"queries": ["a", "b"], "task": TASK}},
        {"input": {"documents": ["a", "b"]}},
    ],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_is_that_of_the_dialects_clients(dialect: str) -> None:
    query, document = BODIES[dialect]
    body = DIALECTS[dialect].body
    assert body(Question(["a", "b"], "query", "e5", TASK)) == query
    assert body(Question(["a", "b"], "document", "e5", TASK)) == document


@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        ("openai", "model"),
        ("ollama", "model"),
        ("tei", "prompt_name"),
        ("nvidia", "input_type"),
        ("cohere", "input_type"),
    ],
)
def test_queries_can_have_a_name_of_their_own(dialect: str, field: str) -> None:
    body = DIALECTS[dialect].body
    assert body(Question(["a"], "query", "e5", TASK, "its-query"))[field] == "its-query"
    document = body(Question(["a"], "document", "e5", TASK, "its-query"))
    assert "its-query" not in json.dumps(document)


@pytest.mark.parametrize("dialect", ["openai", "ollama", "nvidia", "voyage", "cohere"])
def test_a_model_that_is_not_named_is_not_sent(dialect: str) -> None:
    assert "model" not in DIALECTS[dialect].body(Question(["a"], "query", None, TASK))


ANSWERS: dict[str, list[Any]] = {
    "openai": [{"object": "list", "data": [{"embedding": [1, 2]}, {"embedding": "AACAPw=="}]}],
    "cohere": [
        {"embeddings": {"float": [[1, 2], "AACAPw=="]}, "id": "a"},
        {"embeddings": [[1, 2], "AACAPw=="]},
    ],
    "tei": [[[1, 2], "AACAPw=="]],
    "ollama": [{"model": "e5", "embeddings": [[1, 2], "AACAPw=="]}],
    "google": [{"embeddings": [{"values": [1, 2]}, {"values": "AACAPw=="}]}],
    "cog": [{"status": "succeeded", "output": {"embeddings": [[1, 2], "AACAPw=="]}}],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answers_vectors_are_found(dialect: str) -> None:
    for answer in ANSWERS.get(dialect, ANSWERS["openai"]):
        assert DIALECTS[dialect].vectors(answer) == [[1, 2], "AACAPw=="]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("answer", [None, 7, {"error": "no"}, {"data": None}])
def test_an_answer_without_vectors_is_an_error(dialect: str, answer: Any) -> None:
    if dialect == "tei" and isinstance(answer, dict):
        return  # its keys are no vectors, which shows when they are read
    with pytest.raises((KeyError, IndexError, TypeError, ValueError)):
        DIALECTS[dialect].vectors(answer)


def test_a_failed_prediction_says_why() -> None:
    with pytest.raises(ValueError, match="out of memory"):
        DIALECTS["cog"].vectors({"status": "failed", "error": "out of memory"})
