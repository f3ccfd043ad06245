"""An endpoint is asked for the audit's own texts, and what it does to them is told."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fake_http import Asked, Reply, serve_http

from e5.audit.dialects import DIALECTS
from e5.audit.endpoint import EndpointAddress, sample_endpoint
from e5.audit.gathered import Gathered
from e5.audit.own_texts import OWN_TEXTS
from e5.errors import InputError, ServiceError

TASK = "Find the answer"
PROMPT = "Instruct: Find the answer\nQuery: "
KEY = "sk-secret"
ROLES = {
    *("query", "search_query", "RETRIEVAL_QUERY", "e5-query"),
    *("passage", "document", "search_document", "RETRIEVAL_DOCUMENT"),
}

Vector = list[float]


def vector_of(text: str) -> Vector:
    """A vector that no other text has."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    found: Vector = np.random.default_rng(seed).standard_normal(8).tolist()
    return found


def texts_in(body: dict[str, Any]) -> list[str]:
    """The texts of a request in any dialect."""
    if "requests" in body:
        return [each["content"]["parts"][0]["text"] for each in body["requests"]]
    body = body.get("input", body) if isinstance(body.get("input"), dict) else body
    names = ("input", "inputs", "texts", "queries", "documents")
    return next(body[name] for name in names if name in body)


def answer_in(path: str, vectors: Sequence[Vector]) -> Any:
    """An answer in the dialect of a route."""
    if path.endswith("/embed"):
        if path == "/embed":
            return vectors
        return {"embeddings": vectors if "api" in path else {"float": vectors}}
    if path.endswith(":batchEmbedContents"):
        return {"embeddings": [{"values": vector} for vector in vectors]}
    if path.endswith("/predictions"):
        return {"status": "succeeded", "output": {"embeddings": vectors}}
    return {"data": [{"embedding": vector} for vector in vectors]}


@dataclass
class FakeEndpoint:
    """An endpoint whose vectors a function makes.

    Attributes:
        embed: texts -> vectors.
        asked: all requests so far.
    """

    embed: Callable[[list[str]], list[Vector]] = lambda texts: [vector_of(text) for text in texts]
    refusal: Callable[[list[str]], Reply | None] = lambda _: None
    asked: list[Asked] = field(default_factory=list)

    def answer(self, request: Asked) -> Reply:
        """For `serve_http`."""
        self.asked.append(request)
        texts = texts_in(request.body)
        return self.refusal(texts) or (200, answer_in(request.path, self.embed(texts)))

    def sample(self, dialect: str = "openai", path: str = "", **options: Any) -> Gathered:
        """What `sample_endpoint` gathers from it."""
        given = {name: options.pop(name, None) for name in ("model", "query_name", "key")}
        given["model"] = given["model"] or "e5"
        with serve_http(self.answer) as url:
            address = EndpointAddress(url + path, dialect, **given)
            story = sample_endpoint(address, task=TASK, **options)
            return asyncio.run(story)


@pytest.mark.slow
class TestRequests:
    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_each_text_is_asked_for_alone_and_in_two_orders(self, dialect: str) -> None:
        endpoint = FakeEndpoint()
        gathered = endpoint.sample(dialect)
        assert gathered.sample.ids == [text.name for text in OWN_TEXTS]
        assert gathered.sample.texts == [text.text for text in OWN_TEXTS]
        assert gathered.sample.roles == [text.side for text in OWN_TEXTS]
        assert gathered.task == TASK
        assert gathered.batched is None
        assert not gathered.left_out
        assert not gathered.remarks
        sent = [texts_in(request.body) for request in endpoint.asked]
        alone, together = sent[: len(OWN_TEXTS)], sent[len(OWN_TEXTS) :]
        assert all(len(texts) == 1 for texts in alone)
        half = len(together) // 2
        for first, second in zip(together[:half], together[half:], strict=True):
            assert first in (second[::-1], *(other[::-1] for other in together[half:]))
        assert sorted(text for texts in together[:half] for text in texts) == sorted(
            text for (text,) in alone
        )

    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_a_query_has_its_role_or_its_prompt_and_a_document_neither(self, dialect: str) -> None:
        endpoint = FakeEndpoint()
        sample = endpoint.sample(dialect).sample
        for i, own in enumerate(OWN_TEXTS):
            body = endpoint.asked[i].body
            (sent,) = texts_in(body)
            prompted = own.side == "query" and not DIALECTS[dialect].has_roles
            assert sent == (PROMPT + own.text if prompted else own.text)
            assert sample.vectors[i].tolist() == pytest.approx(vector_of(sent), rel=1e-6)
            named = {str(value) for value in body.values()} & ROLES
            assert bool(named) == (DIALECTS[dialect].has_roles and dialect not in ("google", "cog"))

    @pytest.mark.parametrize("dialect", ["openai", "ollama", "tei"])
    def test_queries_that_have_a_name_are_sent_bare(self, dialect: str) -> None:
        endpoint = FakeEndpoint()
        endpoint.sample(dialect, query_name="e5-query")
        sent = {text: request.body for request in endpoint.asked for text in texts_in(request.body)}
        for own in OWN_TEXTS:
            body = sent[own.text]
            assert ("e5-query" in body.values()) == (own.side == "query")

    @pytest.mark.parametrize(
        ("dialect", "path", "header", "value"),
        [
            ("openai", "/v1", "Authorization", f"Bearer {KEY}"),
            ("openai", "/openai/deployments/e5/embeddings?api-version=1", "api-key", KEY),
            ("cohere", "", "Authorization", f"Bearer {KEY}"),
            ("google", "", "x-goog-api-key", KEY),
            ("cog", "", "Authorization", f"Bearer {KEY}"),
        ],
    )
    def test_a_key_is_in_the_header_that_the_dialect_has_for_it(
        self, dialect: str, path: str, header: str, value: str
    ) -> None:
        endpoint = FakeEndpoint()
        endpoint.sample(dialect, path, key=KEY, count=2)
        for request in endpoint.asked:
            headers = {name.lower(): text for name, text in request.headers.items()}
            assert headers[header.lower()] == value
            assert sum(KEY in text for text in headers.values()) == 1
            assert KEY not in request.path
            assert KEY not in request.content.decode()

    def test_no_key_is_no_header(self) -> None:
        endpoint = FakeEndpoint()
        endpoint.sample(count=2)
        assert "Authorization" not in endpoint.asked[0].headers

    def test_google_models_name_is_taken_from_a_whole_url(self) -> None:
        endpoint = FakeEndpoint()
        with serve_http(endpoint.answer) as url:
            address = EndpointAddress(f"{url}/v1beta/models/e5:batchEmbedContents", "google")
            asyncio.run(sample_endpoint(address, task=TASK, count=2))
        assert endpoint.asked[0].body["requests"][0]["model"] == "models/e5"

    @pytest.mark.parametrize("side", ["query", "document"])
    def test_one_side_or_a_few_can_be_asked_for(self, side: Any) -> None:
        endpoint = FakeEndpoint()
        assert set(endpoint.sample(role=side).sample.roles) == {side}
        assert len(endpoint.sample(role=side, count=3).sample.ids) == 3
        assert endpoint.sample(count=1).sample.ids == ["query 1"]


class TestUnsteady:
    def test_vectors_that_depend_on_their_batch_are_judged_too(self) -> None:
        def embed(texts: list[str]) -> list[Vector]:
            return [vector_of(text + "x" * (len(text) < 20 < len(texts))) for text in texts]

        gathered = FakeEndpoint(embed).sample("openai")
        short = [own.name for own in OWN_TEXTS if own.side == "document" and len(own.text) < 20]
        assert len(short) == 2
        places = ("in a batch", "in the reversed batch")
        names = [f"{name} {place}" for place in places for name in short]
        assert gathered.batched is not None
        own = [text.name for text in OWN_TEXTS]
        assert gathered.sample.ids == gathered.batched.ids == own
        changed = (gathered.sample.vectors != gathered.batched.vectors).any(axis=1)
        assert [name for name, is_other in zip(own, changed, strict=True) if is_other] == short
        count = 2 * len(OWN_TEXTS)
        assert gathered.remarks == [
            f"4 of {count} vectors differ from those of the same texts alone: "
            f"{names[0]}, {names[1]}, {names[3]}, ..."
        ]

    def test_vectors_that_depend_on_their_order_are_judged_too(self) -> None:
        def embed(texts: list[str]) -> list[Vector]:
            is_reversed = len(texts) > 1 and texts[0] == OWN_TEXTS[-1].text
            return [vector_of(text + "x" * is_reversed) for text in texts]

        gathered = FakeEndpoint(embed).sample("openai")
        assert gathered.batched is not None
        assert (gathered.sample.vectors != gathered.batched.vectors).any(axis=1).all()
        assert "28 of 56 vectors differ" in gathered.remarks[0]
        assert "in a batch" not in gathered.remarks[0]

    def test_an_answer_in_another_order_is_told(self) -> None:
        def embed(texts: list[str]) -> list[Vector]:
            return [vector_of(text) for text in sorted(texts, key=len)]

        gathered = FakeEndpoint(embed).sample("openai")
        assert gathered.batched is not None
        assert "belong to other texts: the answer has another order" in gathered.remarks[1]

    def test_rounding_is_no_difference(self) -> None:
        def embed(texts: list[str]) -> list[Vector]:
            noise = np.random.default_rng(len(texts)).standard_normal(8) * 0.005
            return [(np.array(vector_of(text)) + noise).tolist() for text in texts]

        assert FakeEndpoint(embed).sample("openai").batched is None

    def test_vectors_without_a_direction_are_left_to_the_verdict(self) -> None:
        gathered = FakeEndpoint(lambda texts: [[0.0] * 8 for _ in texts]).sample("openai")
        assert gathered.batched is None
        assert len(gathered.sample.ids) == len(OWN_TEXTS)


class TestRefusals:
    def test_a_text_that_is_refused_is_left_out_with_the_services_sentence(self) -> None:
        def refusal(texts: list[str]) -> Reply | None:
            longest = max(map(len, texts))
            return (400, {"error": {"message": "too long"}}) if longest > 9000 else None

        gathered = FakeEndpoint(refusal=refusal).sample("openai")
        (left_out,) = gathered.left_out
        (longest,) = (own.name for own in OWN_TEXTS if len(own.text) > 9000)
        assert left_out.id == longest
        assert "HTTP 400: too long" in left_out.reason
        assert len(gathered.sample.ids) == len(OWN_TEXTS) - 1

    @pytest.mark.parametrize(("most", "size"), [(20, 14), (2, 2), (1, 1)])
    def test_smaller_batches_are_sent_where_large_ones_are_refused(
        self, most: int, size: int
    ) -> None:
        def refusal(texts: list[str]) -> Reply | None:
            return (413, {"message": "too many"}) if len(texts) > most else None

        endpoint = FakeEndpoint(refusal=refusal)
        gathered = endpoint.sample("openai")
        assert gathered.batched is None
        assert len(gathered.remarks) == 1
        texts = "one text" if size == 1 else f"{size} texts"
        assert gathered.remarks[0].startswith(
            f"the endpoint takes {texts} in a request, and no more: "
        )
        if size > 1:
            assert len(texts_in(endpoint.asked[-2].body)) == size

    def test_an_endpoint_that_refuses_everything_is_an_error(self) -> None:
        with pytest.raises(ServiceError, match="HTTP 422: no such thing"):
            FakeEndpoint(refusal=lambda _: (422, {"detail": "no such thing"})).sample("openai")

    @pytest.mark.parametrize("status", [401, 404])
    def test_a_wrong_key_or_route_ends_the_audit_at_once(self, status: int) -> None:
        endpoint = FakeEndpoint(refusal=lambda _: (status, {"error": "no"}))
        with pytest.raises(InputError):
            endpoint.sample("openai")
        assert len(endpoint.asked) == 1

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ({"object": "list"}, r"an answer without vectors \(.*object.*\); check the URL"),
            ({"data": []}, "0 vectors for 1 texts; no client can tell whose they are"),
            ([], "an answer without vectors"),
        ],
    )
    def test_an_answer_without_its_vectors_is_an_error(self, answer: Any, words: str) -> None:
        with pytest.raises(ServiceError, match=words):
            FakeEndpoint(refusal=lambda _: (200, answer)).sample("openai")

    def test_a_vector_that_cannot_be_read_is_left_out(self) -> None:
        def embed(texts: list[str]) -> list[Vector]:
            return [[] if text == "a" else vector_of(text) for text in texts]

        gathered = FakeEndpoint(embed).sample("openai")
        (named,) = (own.name for own in OWN_TEXTS if own.text == "a")
        assert {row.id.partition(" in ")[0] for row in gathered.left_out} == {named}
        assert gathered.left_out[0].reason == "no vector"


class TestAddress:
    def test_a_dialect_that_is_not_known_is_refused(self) -> None:
        with pytest.raises(InputError, match="use one of openai, cohere, voyage, tei, ollama,"):
            EndpointAddress("http://a", "grpc")

    @pytest.mark.parametrize("key", ["", "two words", "ключ", "line\n"])
    def test_what_cannot_be_a_key_is_refused_and_not_shown(self, key: str) -> None:
        with pytest.raises(InputError) as raised:
            EndpointAddress("http://a", "openai", key=key)
        assert raised.value.field == "api_key"
        assert raised.value.received == "a value that cannot be a key"

    def test_a_key_is_not_shown(self) -> None:
        assert KEY not in repr(EndpointAddress("http://a", "openai", key=KEY))
