"""Requests merged into common forwards: each gets what it would get alone, and nobody waits long.

The engine is the real one on a small random checkpoint. `WatchedEngine` records its forwards and
can hold them back, so that what arrives during a forward does not depend on the machine's speed.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from e5.batcher import Batched, Batcher
from e5.embedder import Embedder
from e5.engine import Engine
from e5.errors import (
    EngineError,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
)
from e5.packing import TokenIds
from e5.settings import Settings
from e5.vectors import Vectors

BUDGET = 256  # tokens of one forward
POISON = 31_999  # a token whose embedding is NaN


class WatchedEngine(Engine):
    """Records each forward; `hold` makes every further one wait for its own `let_go`."""

    def __init__(self, embedder: Embedder) -> None:
        """Take over the model of a loaded embedder."""
        super().__init__(embedder.engine.model, max_batch_tokens=BUDGET)
        self.forwards: list[list[TokenIds]] = []
        self._held = False
        self._permits = threading.Semaphore(0)

    def compute(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """Record, wait for a permit if held, compute."""
        self.forwards.append(list(token_ids))
        if self._held:
            assert self._permits.acquire(timeout=30)
        return super().compute(token_ids)

    def hold(self) -> None:
        """From now on each forward needs a permit."""
        self._held = True

    def let_go(self, forwards: int = 1_000_000) -> None:
        """Let that many forwards through; by default all."""
        self._permits.release(forwards)

    async def has_started(self, forwards: int) -> None:
        """Wait until the last of that many forwards is running."""
        await until(lambda: len(self.forwards) >= forwards)

    def alone(self, texts: Sequence[TokenIds]) -> Vectors:
        """The truth: each text in a forward of its own."""
        return np.concatenate([Engine.compute(self, [ids]) for ids in texts])


@pytest.fixture(scope="module")
def sound(checkpoint: Path) -> Embedder:
    return Embedder.load(Settings(weights=checkpoint, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def poisoned(checkpoint: Path) -> Embedder:
    embedder = Embedder.load(Settings(weights=checkpoint, device="cpu", dtype="float32"))
    embedder.engine.model.embed_tokens.weight[POISON] = torch.nan
    return embedder


@pytest.fixture
def engine(sound: Embedder) -> WatchedEngine:
    return WatchedEngine(sound)


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function; a story that hangs is a failure."""

    async def bounded() -> None:
        await asyncio.wait_for(story(), 60)

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def submit(batcher: Batcher, texts: Sequence[TokenIds]) -> asyncio.Task[Batched]:
    """A request that is in the queue when this returns."""
    task = asyncio.create_task(batcher.embed(texts))
    await asyncio.sleep(0)
    return task


def some_text(length: int, chance: random.Random, prefix: TokenIds = ()) -> TokenIds:
    body = chance.choices(range(3, POISON), k=length - 2 - len(prefix))
    return (1, *prefix, *body, 2)


def assert_same(vectors: Vectors, truth: Vectors) -> None:
    """Within 1e-4 of each vector's own scale, which no two different texts here are."""
    assert vectors.shape == truth.shape
    assert (np.abs(vectors - truth).max(axis=1) <= 1e-4 * np.abs(truth).max(axis=1)).all()


def test_each_of_many_requests_gets_exactly_its_own_vectors(engine: WatchedEngine) -> None:
    chance = random.Random(0)
    requests = [
        [some_text(chance.randint(3, 60), chance) for _ in range(chance.randint(1, 6))]
        for _ in range(150)
    ]
    answers: list[Batched] = []

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)

        async def client(texts: Sequence[TokenIds], seconds: float) -> Batched:
            await asyncio.sleep(seconds)
            return await batcher.embed(texts)

        clients = [client(texts, chance.random() / 50) for texts in requests]
        answers.extend(await asyncio.gather(*clients))

    run(story)
    for texts, answer in zip(requests, answers, strict=True):
        assert_same(answer.vectors, engine.alone(texts))
    assert len(engine.forwards) < len(requests)
    assert any(
        answer.batch_texts > len(texts) for texts, answer in zip(requests, answers, strict=True)
    )
    assert sum(map(len, engine.forwards)) == sum(map(len, requests)), "each text computed once"
    for forward in engine.forwards:
        assert sum(map(len, forward)) <= BUDGET


def test_texts_that_share_a_prefix_across_requests_get_their_own_vectors(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(1)
    prompt = some_text(22, chance)[1:-1]
    requests = [[some_text(chance.randint(24, 40), chance, prompt)] for _ in range(12)]

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, requests[0])
        await engine.has_started(1)
        others = [await submit(batcher, texts) for texts in requests[1:]]
        engine.let_go()
        answers = await asyncio.gather(first, *others)
        for texts, answer in zip(requests, answers, strict=True):
            assert_same(answer.vectors, engine.alone(texts))
        assert answers[1].batch_texts > 1

    run(story)


def test_what_waits_is_computed_in_one_forward(engine: WatchedEngine) -> None:
    chance = random.Random(2)

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, [some_text(5, chance)])
        await engine.has_started(1)
        waiting = [await submit(batcher, [some_text(6, chance)] * 2) for _ in range(20)]
        await asyncio.sleep(0.05)
        engine.let_go()
        assert (await first).batch_texts == 1
        answers = await asyncio.gather(*waiting)
        assert [answer.batch_texts for answer in answers] == [40] * 20
        assert len(engine.forwards) == 2
        assert all(answer.queue_ms >= 40 for answer in answers)
        assert all(answer.forward_ms > 0 for answer in answers)

    run(story)


def test_a_small_request_waits_for_at_most_one_forward_of_a_large_one(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(3)
    large_texts = [some_text(100, chance) for _ in range(9)]
    small_texts = [[some_text(10, chance)], [some_text(12, chance)]]

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        large = await submit(batcher, large_texts)
        for i, texts in enumerate(small_texts):
            running = 1 + 2 * i
            await engine.has_started(running)
            small = await submit(batcher, texts)
            engine.let_go(1)
            await engine.has_started(running + 1)
            assert engine.forwards[running][0] == texts[0], "in the very next forward, ahead"
            engine.let_go(1)
            assert_same((await small).vectors, engine.alone(texts))
            assert not large.done()
        engine.let_go()
        assert_same((await large).vectors, engine.alone(large_texts))

    run(story)


def test_requests_are_served_in_the_order_they_came(engine: WatchedEngine) -> None:
    chance = random.Random(4)
    requests = [[some_text(200, chance)] for _ in range(4)]

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        tasks = [await submit(batcher, texts) for texts in requests]
        engine.let_go()
        await asyncio.gather(*tasks)
        assert engine.forwards == requests

    run(story)


def test_a_text_longer_than_the_budget_is_computed_alone(engine: WatchedEngine) -> None:
    chance = random.Random(5)
    texts = [some_text(10, chance), some_text(BUDGET + 50, chance), some_text(10, chance)]

    async def story() -> None:
        answer = await Batcher(engine, max_queue_tokens=1_000_000).embed(texts)
        assert_same(answer.vectors, engine.alone(texts))
        assert engine.forwards == [[text] for text in texts]

    run(story)


def test_a_cancelled_request_leaves_the_queue_and_costs_no_forward(engine: WatchedEngine) -> None:
    chance = random.Random(6)
    first_texts, dropped_texts, last_texts = ([some_text(10, chance)] for _ in range(3))

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=25)
        engine.hold()
        first = await submit(batcher, first_texts)
        await engine.has_started(1)
        dropped = await submit(batcher, dropped_texts * 2)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        last = await submit(batcher, last_texts)  # there is room: what was cancelled does not count
        engine.let_go()
        await first
        assert_same((await last).vectors, engine.alone(last_texts))
        assert engine.forwards == [first_texts, last_texts]

    run(story)


def test_a_request_cancelled_during_its_forward_gives_up_the_rest(engine: WatchedEngine) -> None:
    chance = random.Random(7)
    texts = [some_text(BUDGET, chance) for _ in range(5)]

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        large = await submit(batcher, texts)
        await engine.has_started(1)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        engine.let_go()
        await batcher.embed(texts[-1:])
        assert [forward for forward in engine.forwards if forward] == [texts[:1], texts[-1:]]

    run(story)


def test_a_text_without_a_finite_vector_fails_its_own_request_only(poisoned: Embedder) -> None:
    chance = random.Random(8)
    engine = WatchedEngine(poisoned)
    requests = [[some_text(8, chance) for _ in range(3)] for _ in range(6)]
    requests[2][1] = (1, 17, POISON, 18, 2)
    requests[4][2] = (1, POISON, 2)

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, [some_text(5, chance)])
        await engine.has_started(1)
        tasks = [await submit(batcher, texts) for texts in requests]
        engine.let_go()
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        together = [text for texts in requests for text in texts]
        assert engine.forwards[1] == together, "all were in one forward"
        for i, (texts, answer) in enumerate(zip(requests, answers, strict=True)):
            if i in (2, 4):
                assert isinstance(answer, NonFiniteError)
                assert answer.position == {2: 1, 4: 2}[i]
            else:
                assert isinstance(answer, Batched)
                assert_same(answer.vectors, engine.alone(texts))
        assert batcher.healthy

    run(story)


def test_the_position_of_a_bad_text_counts_from_the_requests_start(poisoned: Embedder) -> None:
    chance = random.Random(9)
    engine = WatchedEngine(poisoned)
    texts = [some_text(100, chance) for _ in range(7)]
    texts[5] = (*texts[5][:50], POISON, *texts[5][51:])

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        with pytest.raises(NonFiniteError) as failure:
            await batcher.embed(texts)
        assert failure.value.position == 5
        assert (await batcher.embed(texts[:1])).batch_texts == 1, "others are still served"

    run(story)


def test_a_full_queue_refuses_at_once_and_takes_requests_again_later(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(10)

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=100)
        engine.hold()
        running = await submit(batcher, [some_text(90, chance)])
        await engine.has_started(1)
        waiting = [await submit(batcher, [some_text(40, chance)]) for _ in range(2)]
        with pytest.raises(QueueFullError) as refusal:
            await batcher.embed([some_text(30, chance)])
        assert refusal.value.waiting_tokens == 80
        assert "80 tokens wait, 30 more would pass the limit of 100" in str(refusal.value)
        engine.let_go()
        await asyncio.gather(running, *waiting)
        assert (await batcher.embed([some_text(3, chance)])).batch_texts == 1

    run(story)


def test_a_large_request_keeps_the_queue_full_only_for_what_still_waits_of_it(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(12)
    large_texts = [some_text(100, chance) for _ in range(5)]

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=500)
        engine.hold()
        large = await submit(batcher, large_texts)
        await engine.has_started(1)  # with two of its texts
        with pytest.raises(QueueFullError) as refusal:
            await batcher.embed([some_text(201, chance)])
        assert refusal.value.waiting_tokens == 300
        small = await submit(batcher, [some_text(200, chance)])
        engine.let_go()
        await asyncio.gather(large, small)

    run(story)


def test_a_request_of_more_tokens_than_may_wait_is_refused_whatever_waits(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(13)

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=100)
        for _ in range(2):
            with pytest.raises(RequestTooLargeError, match=r"of 120 tokens; .* at most 100"):
                await batcher.embed([some_text(60, chance)] * 2)
            await batcher.embed([some_text(100, chance)])

    run(story)


def test_the_times_of_an_answer_are_those_of_all_its_forwards(engine: WatchedEngine) -> None:
    chance = random.Random(14)

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, [some_text(10, chance)])
        await engine.has_started(1)
        large = await submit(batcher, [some_text(BUDGET, chance) for _ in range(3)])
        for forwards in (2, 3, 4):
            await asyncio.sleep(0.05)
            engine.let_go(1)
            await engine.has_started(forwards)
        await asyncio.sleep(0.05)
        engine.let_go()
        await first
        answer = await large
        assert answer.forward_ms >= 140, "three forwards, each held for 50 ms"
        assert 40 <= answer.queue_ms < answer.forward_ms, "only until the first of them"
        assert answer.batch_texts == 1

    run(story)


def test_a_forward_that_fails_together_and_not_alone_is_logged(
    sound: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    class FragileEngine(WatchedEngine):
        def compute(self, token_ids: Sequence[TokenIds]) -> Vectors:
            vectors = super().compute(token_ids)
            if len(token_ids) > 1:
                raise RuntimeError("only alone")
            return vectors

    engine = FragileEngine(sound)

    async def story() -> None:
        batcher = Batcher(engine, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, [(1, 12, 2)])
        await engine.has_started(1)
        others = [await submit(batcher, [(1, word, 2)]) for word in (13, 14)]
        engine.let_go()
        for answer, word in zip(await asyncio.gather(first, *others), (12, 13, 14), strict=True):
            assert_same(answer.vectors, engine.alone([(1, word, 2)]))
        assert batcher.healthy

    with caplog.at_level(logging.WARNING):
        run(story)
    (record,) = caplog.records
    assert record.message == "a forward failed: each request in it alone"
    assert "only alone" in caplog.text


def test_an_engine_failure_is_logged_and_makes_the_service_unhealthy(
    sound: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenEngine(WatchedEngine):
        def compute(self, token_ids: Sequence[TokenIds]) -> Vectors:
            if (1, 13, 2) in token_ids:
                raise RuntimeError("device lost")
            return super().compute(token_ids)

    async def story() -> None:
        batcher = Batcher(BrokenEngine(sound), max_queue_tokens=1_000_000)
        await batcher.embed([(1, 12, 2)])
        assert batcher.healthy
        with caplog.at_level(logging.ERROR), pytest.raises(EngineError) as failure:
            await batcher.embed([(1, 12, 2), (1, 13, 2)])
        assert "device lost" not in str(failure.value)
        assert not batcher.healthy

    run(story)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "device lost" in caplog.text
    assert "Traceback" in caplog.text


def test_a_text_too_large_for_the_memory_leaves_the_service_healthy(sound: Embedder) -> None:
    class CrampedEngine(WatchedEngine):
        def compute(self, token_ids: Sequence[TokenIds]) -> Vectors:
            if max(map(len, token_ids)) > 50:
                raise OutOfMemoryError(max(map(len, token_ids)))
            return super().compute(token_ids)

    chance = random.Random(11)

    async def story() -> None:
        batcher = Batcher(CrampedEngine(sound), max_queue_tokens=1_000_000)
        tasks = [await submit(batcher, [some_text(length, chance)]) for length in (20, 60, 30)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Batched, OutOfMemoryError, Batched]
        assert batcher.healthy

    run(story)
