"""The dialects of endpoints: texts -> the JSON that a client sends, the answer -> vectors.

Each request is the one that the dialect's own clients send. A dialect whose requests say what texts
are for gets them bare; in the others the prompt is part of the text, as their users must write it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from e5.errors import InputError

VERSION = re.compile(r"v\d+(beta)?")

TextSide: TypeAlias = Literal["query", "document"]


@dataclass(frozen=True)
class Question:
    """Texts of one side to embed.

    Attributes:
        texts: as they are sent.
        side: what they are for.
        model: the model's name; None to name none.
        task: of the queries.
        query_name: what the endpoint calls queries; None for the dialect's own word.
    """

    texts: Sequence[str]
    side: TextSide
    model: str | None
    task: str
    query_name: str | None = None

    def called(self, query: str | None, document: str | None) -> str | None:
        """The dialect's word for the side."""
        return (self.query_name or query) if self.side == "query" else document


@dataclass(frozen=True)
class Dialect:
    """One way to ask for vectors.

    Attributes:
        route: its path below a base URL.
        body: what is sent.
        vectors: the vectors in an answer, in whatever form; a KeyError, IndexError, TypeError or
            ValueError for an answer that has none.
        has_roles: whether requests say what texts are for.
        key_header: the header that has the key, and what stands before it.
    """

    route: str
    body: Callable[[Question], dict[str, Any]]
    vectors: Callable[[Any], list[Any]]
    has_roles: bool = True
    key_header: tuple[str, str] = ("Authorization", "Bearer ")

    def url(self, given: str, model: str | None) -> str:
        """The URL of the route, from a base URL or from the whole one.

        Raises:
            InputError: if the route names the model, and there is no name.

        Example:
            >>> DIALECTS["openai"].url("http://127.0.0.1:8080", None)
            'http://127.0.0.1:8080/v1/embeddings'
            >>> DIALECTS["openai"].url("https://a/openai/deployments/e5/embeddings?v=1", None)
            'https://a/openai/deployments/e5/embeddings?v=1'
        """
        base, question_mark, query = given.partition("?")
        base, (first, _, rest) = base.rstrip("/"), self.route.partition("/")
        last = base.rpartition("/")[2]
        if re.split("[/:]", last)[-1] == re.split("[/:]", self.route)[-1]:
            return f"{base}{question_mark}{query}"
        if "{model}" in self.route and not model:
            raise InputError("model", "nothing", "name it: it is part of the URL")
        # Many clients' base URLs end in the route's version, such as v1.
        has_first = last == first or (VERSION.fullmatch(last) and VERSION.fullmatch(first))
        route = rest if has_first else self.route
        name = (model or "").removeprefix("models/")
        return f"{base}/{route.replace('{model}', quote(name))}{question_mark}{query}"


def _openai(question: Question) -> dict[str, Any]:
    # Only a model's name can say the role in this dialect.
    model = question.called(question.model, question.model)
    return _with_model(model, {"input": list(question.texts), "encoding_format": "float"})


def _ollama(question: Question) -> dict[str, Any]:
    model = question.called(question.model, question.model)
    return _with_model(model, {"input": list(question.texts), "truncate": True})


def _nvidia(question: Question) -> dict[str, Any]:
    role = question.called("query", "passage")
    body = {"input": list(question.texts), "input_type": role, "encoding_format": "float"}
    return _with_model(question.model, {**body, "truncate": "END"})


def _voyage(question: Question) -> dict[str, Any]:
    role = question.called("query", "document")
    body = {"input": list(question.texts), "input_type": role, "truncation": True}
    return _with_model(question.model, body)


def _cohere(question: Question) -> dict[str, Any]:
    role = question.called("search_query", "search_document")
    body = {"texts": list(question.texts), "input_type": role, "embedding_types": ["float"]}
    return _with_model(question.model, {**body, "truncate": "END"})


def _tei(question: Question) -> dict[str, Any]:
    name = question.called(None, None)
    body = {"inputs": list(question.texts), "truncate": True}
    return body if name is None else {**body, "prompt_name": name}


def _google(question: Question) -> dict[str, Any]:
    role = question.called("RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT")
    model = f"models/{(question.model or '').removeprefix('models/')}"
    contents = [{"parts": [{"text": text}]} for text in question.texts]
    requests = [{"model": model, "content": each, "taskType": role} for each in contents]
    return {"requests": requests}


def _cog(question: Question) -> dict[str, Any]:
    if question.side == "query":
        return {"input": {"queries": list(question.texts), "task": question.task}}
    return {"input": {"documents": list(question.texts)}}


def _with_model(model: str | None, body: dict[str, Any]) -> dict[str, Any]:
    return body if model is None else {"model": model, **body}


def _data(answer: Any) -> list[Any]:
    return [each["embedding"] for each in answer["data"]]


def _cohere_vectors(answer: Any) -> list[Any]:
    embeddings = answer["embeddings"]  # a list in version 1
    return list(embeddings["float"] if isinstance(embeddings, dict) else embeddings)


def _cog_vectors(answer: Any) -> list[Any]:
    if answer["status"] != "succeeded":
        raise ValueError(str(answer.get("error") or answer["status"]))
    return list(answer["output"]["embeddings"])


DIALECTS = {
    "openai": Dialect("v1/embeddings", _openai, _data, has_roles=False),
    "cohere": Dialect("v2/embed", _cohere, _cohere_vectors),
    "voyage": Dialect("v1/embeddings", _voyage, _data),
    "tei": Dialect("embed", _tei, list, has_roles=False),
    "ollama": Dialect(
        "api/embed", _ollama, lambda answer: list(answer["embeddings"]), has_roles=False
    ),
    "google": Dialect(
        "v1beta/models/{model}:batchEmbedContents",
        _google,
        lambda answer: [each["values"] for each in answer["embeddings"]],
        key_header=("x-goog-api-key", ""),
    ),
    "nvidia": Dialect("v1/embeddings", _nvidia, _data),
    "cog": Dialect("predictions", _cog, _cog_vectors),
}
