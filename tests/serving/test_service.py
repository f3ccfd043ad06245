"""A request's answer is what the embedder gives for its texts, whoever else sends requests."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from reference import assert_same
from watched import POISON, WatchedEngine, run, until

from e5.embedder import Embedder
from e5.errors import InputError, NonFiniteError, QueueFullError, RequestTooLargeError
from e5.prompt_tokenizer import PromptTokenizer
from e5.serving.request import Answer, EmbedRequest
from e5.serving.service import FEW_CHARACTERS, MAX_TOKENIZING, Service
from e5.settings import Settings

TASKS = ["web_search_query", "sts_query", "Find twins", ""]


@pytest.fixture(scope="module")
def short_embedder(checkpoint: Path) -> Embedder:
    """Reads 64 tokens of each text, so that texts of many characters cost little."""
    settings = Settings(weights=checkpoint, device="cpu", dtype="float32", max_length=64)
    return Embedder.load(settings)


def some_request(draw: random.Random) -> dict[str, Any]:
    """Any mixture of what a caller may send, a long text now and then."""

    def text() -> str:
        count = draw.choice([1, 5, 30, FEW_CHARACTERS // 5])
        return " ".join(draw.choices(["snow", "rain", "\n", "</s>", "ß"], k=count)) + "."

    return {
        "task": draw.choice(TASKS),
        "query": "what is snow",
        "queries": [text() for _ in range(draw.randint(0, 4))],
        "documents": [text() for _ in range(draw.randint(0, 4))],
        "symmetric": draw.random() < 0.3,
        "normalize": draw.random() < 0.5,
        "dimensions": draw.choice([None, 1, 10, 64]),
    }


def truth(embedder: Embedder, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """Vectors and scores, by the Python API."""
    options = {name: inputs[name] for name in ("task", "normalize", "dimensions")}
    queries = embedder.encode_query([inputs["query"], *inputs["queries"]], **options)
    documents = embedder.encode_document(
        inputs["documents"], symmetric=inputs["symmetric"], **options
    )
    return np.concatenate([queries, documents]), embedder.similarity(queries, documents)


def test_an_answer_is_what_the_embedder_gives(short_embedder: Embedder) -> None:
    embedder = short_embedder
    draw = random.Random(0)
    requests = [some_request(draw) for _ in range(16)]
    answers: list[Answer] = []

    async def story() -> None:
        service = Service.of(embedder, max_queue_tokens=1_000_000)
        coming = [service.answer(EmbedRequest.parse(**inputs)) for inputs in requests]
        answers.extend(await asyncio.gather(*coming))

    run(story)
    for inputs, answer in zip(requests, answers, strict=True):
        vectors, scores = truth(embedder, inputs)
        assert_same(answer.vectors, vectors)
        np.testing.assert_allclose(answer.scores, scores, atol=1e-3)
        assert answer.model == embedder.name
        assert len(answer.tokens) == len(vectors)
        assert answer.metrics.keys() == {"queue_ms", "forward_ms", "tokens", "batch_texts"}
        assert answer.metrics["tokens"] == sum(answer.tokens)
    assert max(answer.metrics["batch_texts"] for answer in answers) > 9, "requests were merged"


def test_tokens_count_the_prompt_and_truncated_texts_are_named(embedder: Embedder) -> None:
    request = EmbedRequest.parse(query="snow", documents=["snow", "snow " * 5000])

    async def story() -> None:
        answer = await Service.of(embedder, max_queue_tokens=1_000_000).answer(request)
        assert answer.tokens[1:] == [3, 4096]
        assert answer.tokens[0] > 20
        assert answer.truncated == [False, False, True]

    run(story)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"query": "q", "dimensions": 65}, r"^dimensions: received 65; use 1 to 64\."),
        (
            {"query": "snow", "document": "snow " * 5000, "truncate": False},
            r"^document: received a text of 5003 tokens with truncate=false; shorten it to 4096",
        ),
    ],
)
def test_inputs_that_only_the_embedder_can_check_are_refused_in_a_sentence(
    embedder: Embedder, inputs: dict[str, Any], message: str
) -> None:
    async def story() -> None:
        with pytest.raises(InputError, match=message):
            await Service.of(embedder, max_queue_tokens=1_000_000).answer(
                EmbedRequest.parse(**inputs)
            )

    run(story)


def test_a_bad_text_has_its_caller_s_name_and_costs_nobody_else(poisoned: Embedder) -> None:
    encode = poisoned.prompt_tokenizer.tokenizer.encode

    async def story() -> None:
        service = Service.of(poisoned, max_queue_tokens=1_000_000)
        word = next(
            piece
            for piece in poisoned.prompt_tokenizer.tokenizer._tokenizer.get_vocab()
            if poisoned.prompt_tokenizer.tokenizer._tokenizer.token_to_id(piece) == POISON
        )
        assert POISON in encode([word])[0].token_ids
        bad = service.answer(EmbedRequest.parse(query="snow", documents=["rain", word]))
        good = service.answer(EmbedRequest.parse(query="snow", documents=["rain", "sun"]))
        failure, answer = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(failure, NonFiniteError)
        assert str(failure).startswith("documents[1]: received a text whose vector")
        assert isinstance(answer, Answer)
        assert service.healthy

    run(story)


@pytest.mark.parametrize(
    ("documents", "kind"),
    [(["snow"] * 30, QueueFullError), (["snow " * 200], RequestTooLargeError)],
)
def test_the_queue_has_a_limit(
    embedder: Embedder, documents: Sequence[str], kind: type[Exception]
) -> None:
    async def story() -> None:
        service = Service.of(embedder, max_queue_tokens=100)
        requests = [EmbedRequest.parse(document=text) for text in documents]
        for _ in range(2):  # and later it takes requests again
            coming = [service.answer(request) for request in requests * 9]
            outcomes = await asyncio.gather(*coming, return_exceptions=True)
            assert any(isinstance(outcome, kind) for outcome in outcomes)
            if kind is QueueFullError:
                assert any(isinstance(outcome, Answer) for outcome in outcomes)

    run(story)


def test_a_full_queue_refuses_before_it_tokenises(
    short_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = WatchedEngine(short_embedder)
    tokenize = PromptTokenizer.tokenize
    tokenized, at_once = 0, [0]
    lock, running = Lock(), 0

    def counted(*texts: Any, **options: Any) -> Any:
        nonlocal tokenized, running
        with lock:
            tokenized, running = tokenized + 1, running + 1
            at_once.append(running)
        try:
            return tokenize(*texts, **options)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(PromptTokenizer, "tokenize", counted)

    async def story() -> None:
        request = EmbedRequest.parse(documents=["snow in winter " * (FEW_CHARACTERS // 15)] * 3)
        with pytest.raises(RequestTooLargeError):  # it has 192 tokens
            await Service.of(engine.embedder, max_queue_tokens=100).answer(request)
        assert tokenized == 0
        service = Service.of(engine.embedder, max_queue_tokens=1_000)
        engine.hold()
        tasks = [asyncio.create_task(service.answer(request)) for _ in range(30)]
        await until(lambda: sum(task.done() for task in tasks) >= 20)
        engine.let_go()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Answer, QueueFullError}
        assert tokenized <= 10, "the others were refused without"
        assert max(at_once) <= MAX_TOKENIZING

    run(story)
