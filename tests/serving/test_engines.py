"""Engines behind sockets give what one process gives; an engine's end costs nobody an answer."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_tools import (
    LOOPS,
    FakeEngine,
    connected,
    private_folder,
    run_on,
    server_of,
    serving,
)
from reference import assert_same
from watched import BUDGET, POISON, WatchedEngine, run, some_text, until

from e5.embedder import Embedder
from e5.errors import (
    E5Error,
    InputError,
    NonFiniteError,
    QueueFullError,
    RequestTooLargeError,
    TokenizerError,
)
from e5.serving.batcher import Batcher
from e5.serving.engine_server import EngineServer
from e5.serving.engines import Engines
from e5.serving.request import Answer, EmbedRequest
from e5.serving.service import FEW_CHARACTERS, Service
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.vectors import Vectors


class AloneEngine(WatchedEngine):
    """Computes each text in a forward of its own: its bits do not depend on who comes beside it."""

    def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
        """See `Engine.compute`."""
        return np.concatenate(
            [
                super(AloneEngine, self).compute([ids], share_prefixes=share_prefixes)
                for ids in sequences
            ]
        )


@pytest.fixture(scope="module")
def short_poisoned(checkpoint: Path) -> Embedder:
    """Reads 40 tokens of each text; one token's embedding is NaN."""
    settings = Settings(weights=checkpoint, device="cpu", dtype="float32", max_length=40)
    embedder = Embedder.load(settings)
    embedder._engine.model.embed_tokens.weight[POISON] = torch.nan
    return embedder


def bad_word(embedder: Embedder) -> str:
    """A word that becomes the token without a finite vector."""
    tokenizer = embedder.prompt_tokenizer.tokenizer
    [word] = (
        piece
        for piece in tokenizer._tokenizer.get_vocab()
        if tokenizer._tokenizer.token_to_id(piece) == POISON
    )
    assert POISON in tokenizer.encode([word])[0].token_ids
    return word


def some_requests(chance: random.Random, bad: str) -> list[EmbedRequest]:
    """Any mixture of what callers send: small ones beside large ones, and some that are refused."""

    def text() -> str:
        return " ".join(
            chance.choices(["snow", "rain", "ß", "</s>", "雪"], k=chance.randint(1, 60))
        )

    requests = []
    for _ in range(40):
        count = chance.choice([1, 1, 2, 3, 12])
        texts = [text() for _ in range(count)]
        if chance.random() < 0.15:
            texts[chance.randrange(count)] = f"{bad} {text()}"
        inputs: dict[str, Any] = {
            chance.choice(["queries", "documents"]): texts,
            "query": chance.choice([None, "what is snow"]),
            "task": chance.choice(["web_search_query", "sts_query", "Find twins", ""]),
            "symmetric": chance.random() < 0.3,
            "normalize": chance.random() < 0.5,
            "dimensions": chance.choice([None, None, 1, 10, 64, 10_000]),
            "truncate": chance.random() < 0.7,
        }
        requests.append(EmbedRequest.parse(**inputs))
    requests.append(EmbedRequest.parse(documents=["snow", bad]))
    requests.append(EmbedRequest.parse(documents=["snow " * 60] * 300))  # more than a queue holds
    requests.append(EmbedRequest.parse(documents=["snow " * (FEW_CHARACTERS // 5)] * 3))
    return requests


def as_data(outcome: Answer | BaseException) -> dict[str, Any]:
    """All that a caller is told, but the times; vectors bit for bit."""
    if isinstance(outcome, E5Error):
        return outcome.to_dict()
    assert isinstance(outcome, Answer), outcome
    assert outcome.metrics.keys() == {"queue_ms", "forward_ms", "tokens", "batch_texts"}
    return {
        "vectors": (outcome.vectors.shape, outcome.vectors.tobytes()),
        "scores": (outcome.scores.shape, outcome.scores.tobytes()),
        "usage": (outcome.tokens, outcome.truncated, outcome.metrics["tokens"]),
        "model": outcome.model,
    }


@LOOPS
def test_answers_usage_and_errors_are_those_of_one_process(
    short_poisoned: Embedder, checkpoint: Path, loop: str
) -> None:
    engines_here = [AloneEngine(short_poisoned) for _ in range(3)]
    for engine in engines_here:
        engine.embedder.max_length = 40
    chance = random.Random(loop)
    requests = some_requests(chance, bad_word(short_poisoned))

    async def ask(service: Service, request: EmbedRequest, seconds: float) -> Answer:
        await asyncio.sleep(seconds)
        return await service.answer(request)

    async def story() -> None:
        one = Service.of(engines_here[0].embedder, max_queue_tokens=11_000)
        servers = [server_of(engine, max_queue_tokens=11_000) for engine in engines_here[1:]]
        async with serving(*servers) as paths, connected(paths) as engines:
            model = engines.model(checkpoint)
            many = Service(model, engines)
            outcomes = [
                await asyncio.gather(
                    *(ask(service, each, chance.random() / 20) for each in requests),
                    return_exceptions=True,
                )
                for service in (one, many)
            ]
            for request, here, there in zip(requests, *outcomes, strict=True):
                assert as_data(here) == as_data(there), request
            kinds = {type(each) for each in outcomes[0]}
            assert kinds == {Answer, InputError, NonFiniteError, RequestTooLargeError}
            assert all(engine.forwards for engine in engines_here), "both engines took part"
            assert many.healthy
            assert (many.max_queue_tokens, model.max_length) == (22_000, 40)
            assert model.max_batch_tokens == BUDGET

    run_on(loop, story)


def test_a_small_request_waits_for_at_most_one_forward_of_a_large_one(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(3)
    large_texts = [some_text(100, chance) for _ in range(9)]
    small_texts = [[some_text(10, chance)], [some_text(12, chance)]]

    async def story() -> None:
        server = server_of(engine)
        async with (
            serving(server) as paths,
            connected(paths) as one_front,
            connected(paths) as another_front,
        ):
            engine.hold()
            large = asyncio.create_task(one_front.embed(large_texts))
            for i, texts in enumerate(small_texts):
                running = 1 + 2 * i
                await engine.has_started(running)
                waiting = server.queue.waiting_tokens
                small = asyncio.create_task(another_front.embed(texts))
                await until(lambda before=waiting: server.queue.waiting_tokens > before)  # type: ignore[misc]
                engine.let_go(1)
                await engine.has_started(running + 1)
                assert engine.forwards[running][0] == texts[0], "in the very next forward, ahead"
                engine.let_go(1)
                assert_same((await small).vectors, engine.alone(texts))
                assert not large.done()
            engine.let_go()
            assert_same((await large).vectors, engine.alone(large_texts))

    run(story)


def test_requests_of_all_fronts_share_a_forward(engine: WatchedEngine) -> None:
    chance = random.Random(2)

    async def story() -> None:
        server = server_of(engine)
        async with serving(server) as paths, connected(paths) as one, connected(paths) as other:
            engine.hold()
            first = asyncio.create_task(one.embed([some_text(5, chance)]))
            await engine.has_started(1)
            waiting = [
                asyncio.create_task(front.embed([some_text(6, chance)] * 2))
                for front in [one, other] * 10
            ]
            await until(lambda: server.queue.waiting_tokens == 20 * 2 * 6)
            engine.let_go()
            assert (await first).batch_texts == 1
            answers = await asyncio.gather(*waiting)
            assert [answer.batch_texts for answer in answers] == [40] * 20
            assert all(answer.queue_ms > 0 and answer.forward_ms > 0 for answer in answers)

    run(story)


def test_the_vectors_that_an_engine_has_kept_are_counted_as_in_one_process(
    engine: WatchedEngine,
) -> None:
    texts = [(1, 7, 2), (1, 8, 9, 2)]

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1000, cache_bytes=1_000_000)
        server = EngineServer(engine.embedder, batcher)
        async with serving(server) as paths, connected(paths) as one, connected(paths) as other:
            assert (await one.embed(texts)).cached == 0
            found = await other.embed([(1, 5, 2), *texts])  # one cache for all fronts
            assert found.cached == 2
            assert_same(found.vectors[1:], engine.alone(texts))
            await until(lambda: one.cache_bytes > 0)
            assert one.cache_bytes == batcher.cache_bytes

    run(story)


def test_a_request_goes_whole_to_the_engine_with_the_fewest_tokens(sound: Embedder) -> None:
    chance, both = random.Random(4), [WatchedEngine(sound) for _ in range(2)]
    large, middle, small = ([some_text(n, chance)] * 2 for n in (60, 40, 10))

    async def story() -> None:
        servers = [server_of(engine) for engine in both]
        async with serving(*servers) as paths, connected(paths) as engines:
            for engine in both:
                engine.hold()
            tasks = [asyncio.create_task(engines.embed(large))]
            await until(lambda: any(engine.forwards for engine in both))
            busy, free = sorted(both, key=lambda engine: not engine.forwards)
            for texts in (middle, small, middle):  # 80, 100 and 180 tokens beside 120
                tasks.append(asyncio.create_task(engines.embed(texts)))
                await asyncio.sleep(0)
            await free.has_started(1)
            last = asyncio.create_task(engines.embed(small))  # 120 beside 180
            for engine in both:
                engine.let_go()
            await asyncio.gather(*tasks, last)
            found = [
                sorted({ids for part in each.forwards for ids in part}) for each in (busy, free)
            ]
            assert found == [sorted({large[0], small[0]}), sorted({middle[0], small[0]})]

    run(story)


def test_engines_that_are_equal_take_turns(sound: Embedder) -> None:
    all_three = [WatchedEngine(sound) for _ in range(3)]

    async def story() -> None:
        servers = [server_of(engine) for engine in all_three]
        async with serving(*servers) as paths, connected(paths) as engines:
            for _ in range(6):
                await engines.embed([(1, 7, 2)])
            assert [len(engine.forwards) for engine in all_three] == [2, 2, 2]

    run(story)


def test_a_request_that_is_cancelled_here_is_cancelled_in_the_engine(engine: WatchedEngine) -> None:
    chance = random.Random(7)
    first_texts, dropped_texts, last_texts = ([some_text(10, chance)] for _ in range(3))

    async def story() -> None:
        server = server_of(engine, max_queue_tokens=25)
        async with serving(server) as paths, connected(paths) as engines:
            engine.hold()
            first = asyncio.create_task(engines.embed(first_texts))
            await engine.has_started(1)
            with pytest.raises(TimeoutError):  # as the gateway's deadline does
                async with asyncio.timeout(0.02):
                    await engines.embed(dropped_texts * 2)
            last = asyncio.create_task(engines.embed(last_texts))
            await until(lambda: server.queue.waiting_tokens == 10)
            engine.let_go()
            await first
            assert_same((await last).vectors, engine.alone(last_texts))
            assert engine.forwards[:2] == [first_texts, last_texts]

    run(story)


def test_a_full_queue_and_a_request_too_large_are_refused_as_in_one_process(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(8)

    async def story() -> None:
        server = server_of(engine, max_queue_tokens=100)
        async with serving(server) as paths, connected(paths) as engines:
            one = server.queue
            engine.hold()
            tasks = [asyncio.create_task(engines.embed([some_text(90, chance)]))]
            await engine.has_started(1)
            tasks += [asyncio.create_task(engines.embed([some_text(40, chance)])) for _ in range(2)]
            await until(lambda: engines.waiting_tokens == 80)  # it has said so
            for num_tokens, kind in ((101, RequestTooLargeError), (21, QueueFullError)):
                said = []
                for queue in (one, engines):
                    with pytest.raises(kind) as raised:
                        queue.check_capacity(num_tokens)
                    said.append(raised.value.to_dict())
                    with pytest.raises(kind) as raised:
                        await queue.embed([some_text(num_tokens, chance)])
                    said.append(raised.value.to_dict())
                assert said == said[:1] * 4
            engines.check_capacity(20)
            engine.let_go()
            await asyncio.gather(*tasks)
            await engines.embed([some_text(100, chance)])

    run(story)


def test_who_waits_for_the_first_engine_can_give_up() -> None:
    async def story() -> None:
        before = asyncio.all_tasks()
        with private_folder() as folder, pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await Engines.connect([folder / "never"])
        assert asyncio.all_tasks() == before

    run(story)


def test_an_engine_with_another_card_is_taken(engine: WatchedEngine) -> None:
    async def story() -> None:
        first = server_of(engine)
        other = FakeEngine(first.hello.model_copy(update={"max_batch_tokens": 9}), lambda _: b"")
        async with serving(first, other) as paths, connected(paths) as engines:
            assert len(engines._connections) == 2

    run(story)


def test_a_tokenizer_that_is_not_the_engines_is_refused(
    engine: WatchedEngine, checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer = (checkpoint / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer + "\n")

    async def story() -> None:
        async with serving(server_of(engine)) as paths, connected(paths) as engines:
            assert engines.model(checkpoint).name == "watched"
            with pytest.raises(TokenizerError, match="not the tokenizer that the engines have"):
                engines.model(tmp_path)

    run(story)
