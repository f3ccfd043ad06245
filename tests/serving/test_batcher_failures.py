"""What goes wrong costs the request that it is about, and no other."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from reference import assert_same
from watched import BUDGET, POISON, WatchedEngine, run, some_text, submit

from e5.embedder import Embedder
from e5.errors import (
    EngineError,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
)
from e5.serving.batcher import Batcher
from e5.serving.engine_queue import BatchedVectors
from e5.serving.liveness import MAX_BAD_FORWARDS
from e5.tokenizer import TokenIds
from e5.vectors import Vectors


def test_a_text_without_a_finite_vector_fails_its_own_request_only(poisoned: Embedder) -> None:
    chance = random.Random(8)
    engine = WatchedEngine(poisoned)
    requests = [[some_text(8, chance) for _ in range(3)] for _ in range(6)]
    requests[2][1] = (1, 17, POISON, 18, 2)
    requests[4][2] = (1, POISON, 2)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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
                assert isinstance(answer, BatchedVectors)
                assert_same(answer.vectors, engine.alone(texts))
        assert batcher.healthy

    run(story)


def test_the_position_of_a_bad_text_counts_from_the_requests_start(poisoned: Embedder) -> None:
    chance = random.Random(9)
    engine = WatchedEngine(poisoned)
    texts = [some_text(100, chance) for _ in range(7)]
    texts[5] = (*texts[5][:50], POISON, *texts[5][51:])

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
        with pytest.raises(NonFiniteError) as failure:
            await batcher.embed(texts)
        assert failure.value.position == 5
        assert (await batcher.embed(texts[:1])).batch_texts == 1, "others are still served"

    run(story)


@pytest.mark.slow
def test_a_full_queue_refuses_at_once_and_takes_requests_again_later(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(10)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=100)
        engine.hold()
        running = await submit(batcher, [some_text(90, chance)])
        await engine.has_started(1)
        waiting = [await submit(batcher, [some_text(40, chance)]) for _ in range(2)]
        with pytest.raises(QueueFullError) as refusal:
            await batcher.embed([some_text(30, chance)])
        assert "80 tokens wait, 30 more would pass the limit of 100" in str(refusal.value)
        engine.let_go()
        await asyncio.gather(running, *waiting)
        assert (await batcher.embed([some_text(3, chance)])).batch_texts == 1

    run(story)


@pytest.mark.slow
def test_a_large_request_keeps_the_queue_full_only_for_what_still_waits_of_it(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(12)
    large_texts = [some_text(100, chance) for _ in range(5)]

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=500)
        engine.hold()
        large = await submit(batcher, large_texts)
        await engine.has_started(1)  # with two of its texts
        with pytest.raises(QueueFullError, match="300 tokens wait, 201 more"):
            await batcher.embed([some_text(201, chance)])
        small = await submit(batcher, [some_text(200, chance)])
        engine.let_go()
        await asyncio.gather(large, small)

    run(story)


def test_a_request_of_more_tokens_than_may_wait_is_refused_whatever_waits(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(13)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=100)
        for _ in range(2):
            with pytest.raises(RequestTooLargeError, match=r"of 120 tokens; .* at most 100"):
                await batcher.embed([some_text(60, chance)] * 2)
            await batcher.embed([some_text(100, chance)])

    run(story)


@pytest.mark.slow
def test_the_times_of_an_answer_are_those_of_all_its_forwards(engine: WatchedEngine) -> None:
    chance = random.Random(14)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, [some_text(10, chance)])
        await engine.has_started(1)
        before = time.perf_counter()
        large = await submit(batcher, [some_text(BUDGET, chance) for _ in range(3)])
        waited = []
        for forwards in (2, 3, 4):
            await asyncio.sleep(0.05)
            engine.let_go(1)
            await engine.has_started(forwards)
            waited.append((time.perf_counter() - before) * 1e3)
        await asyncio.sleep(0.05)
        engine.let_go()
        await first
        answer = await large
        assert answer.forward_ms >= 140, "three forwards, each held for 50 ms"
        assert 40 <= answer.queue_ms <= waited[0], "only until the first of them"
        assert answer.batch_texts == 1

    run(story)


def test_a_forward_that_fails_together_and_not_alone_is_logged(
    sound: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    class FragileEngine(WatchedEngine):
        def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
            vectors = super().compute(sequences, share_prefixes=share_prefixes)
            if len(sequences) > 1:
                raise RuntimeError("only alone")
            return vectors

    engine = FragileEngine(sound)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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
        def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
            if (1, 13, 2) in sequences:
                raise RuntimeError("device lost")
            return super().compute(sequences, share_prefixes=share_prefixes)

    async def story() -> None:
        batcher = Batcher(BrokenEngine(sound).embedder, max_queue_tokens=1_000_000)
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
        def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
            if max(map(len, sequences)) > 50:
                raise OutOfMemoryError(max(map(len, sequences)))
            return super().compute(sequences, share_prefixes=share_prefixes)

    chance = random.Random(11)

    async def story() -> None:
        batcher = Batcher(CrampedEngine(sound).embedder, max_queue_tokens=1_000_000)
        tasks = [await submit(batcher, [some_text(length, chance)]) for length in (20, 60, 30)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        short, long, medium = map(type, answers)
        assert (short, long, medium) == (BatchedVectors, OutOfMemoryError, BatchedVectors)
        assert batcher.healthy

    run(story)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", ["too few", "too many"])
def test_an_engine_that_gives_another_number_of_vectors_is_broken(
    wrong: str, sound: Embedder
) -> None:
    class MiscountingEngine(WatchedEngine):
        def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
            vectors = super().compute(sequences, share_prefixes=share_prefixes)
            return vectors[:-1] if wrong == "too few" else np.concatenate([vectors, vectors[:1]])

    async def story() -> None:
        batcher = Batcher(MiscountingEngine(sound).embedder, max_queue_tokens=1_000_000)
        for _ in range(2):
            with pytest.raises(EngineError):
                await batcher.embed([(1, 12, 2), (1, 13, 2)])
        assert not batcher.healthy

    run(story)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["take", "_store", "_compute"])
def test_after_a_mistake_in_the_thread_nobody_waits_for_ever(
    method: str, sound: Embedder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        engine = WatchedEngine(sound)
        engine.hold()
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
        first = await submit(batcher, [(1, 12, 2)])
        await engine.has_started(1)
        waiting = [await submit(batcher, [(1, number, 2)] * 3) for number in range(20, 25)]

        def mistaken(*_: object) -> None:
            raise IndexError("list index out of range")

        monkeypatch.setattr(batcher._queue if method == "take" else batcher, method, mistaken)
        engine.let_go()
        answers = await asyncio.gather(first, *waiting, return_exceptions=True)
        if method != "_store":  # the first was under way
            assert isinstance(answers.pop(0), BatchedVectors)
        assert all(isinstance(answer, EngineError) for answer in answers)
        assert not batcher.healthy
        with pytest.raises(EngineError):
            await batcher.embed([(1, 12, 2)])

    run(story)
    assert "list index out of range" in caplog.text
    assert "Traceback" in caplog.text


def test_nan_alone_for_many_forwards_is_an_engine_s_fault(sound: Embedder) -> None:
    class NanEngine(WatchedEngine):
        is_ill = True

        def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
            vectors = super().compute(sequences, share_prefixes=share_prefixes)
            return vectors * np.float32("nan") if self.is_ill else vectors

    async def story() -> None:
        engine = NanEngine(sound)
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
        for number in range(MAX_BAD_FORWARDS):
            assert batcher.healthy
            with pytest.raises(NonFiniteError):
                await batcher.embed([(1, 12 + number, 2)])
        assert not batcher.healthy
        engine.is_ill = False
        await batcher.embed([(1, 12, 2)])
        assert batcher.healthy

    run(story)
