"""Requests merged into common forwards: each gets what it would get alone, and waits little."""

import asyncio
import random
import sys
from collections.abc import Sequence

import pytest
from reference import assert_same
from watched import BUDGET, WatchedEngine, run, some_text, submit

from e5.serving.batcher import SWITCH_SECONDS, Batcher
from e5.serving.engine_queue import BatchedVectors
from e5.serving.memory import MemoryTrimmer
from e5.tokenizer import TokenIds


def test_each_of_many_requests_gets_exactly_its_own_vectors(engine: WatchedEngine) -> None:
    chance = random.Random(0)
    requests = [
        [some_text(chance.randint(3, 60), chance) for _ in range(chance.randint(1, 6))]
        for _ in range(150)
    ]
    answers: list[BatchedVectors] = []

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)

        async def client(texts: Sequence[TokenIds], seconds: float) -> BatchedVectors:
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
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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


def test_requests_that_wait_are_computed_in_one_forward(engine: WatchedEngine) -> None:
    chance = random.Random(2)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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
        answer = await Batcher(engine.embedder, max_queue_tokens=1_000_000).embed(texts)
        assert_same(answer.vectors, engine.alone(texts))
        assert engine.forwards == [[text] for text in texts]

    run(story)


def test_a_cancelled_request_leaves_the_queue_and_costs_no_forward(engine: WatchedEngine) -> None:
    chance = random.Random(6)
    first_texts, dropped_texts, last_texts = ([some_text(10, chance)] for _ in range(3))

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=25)
        engine.hold()
        first = await submit(batcher, first_texts)
        await engine.has_started(1)
        dropped = await submit(batcher, dropped_texts * 2)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        last = await submit(batcher, last_texts)  # it fits: what was cancelled does not count
        engine.let_go()
        await first
        assert_same((await last).vectors, engine.alone(last_texts))
        assert engine.forwards == [first_texts, last_texts]

    run(story)


def test_a_request_cancelled_during_its_forward_gives_up_the_rest(engine: WatchedEngine) -> None:
    chance = random.Random(7)
    texts = [some_text(BUDGET, chance) for _ in range(5)]

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
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


def test_a_shared_prefix_counts_once_in_the_budget(engine: WatchedEngine) -> None:
    chance = random.Random(9)
    prompt = some_text(BUDGET // 2, chance)[1:-1]
    requests = [[some_text(BUDGET // 2 + 3, chance, prompt)] for _ in range(6)]

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
        engine.hold()
        first = await submit(batcher, [some_text(5, chance)])
        await engine.has_started(1)
        others = [await submit(batcher, texts) for texts in requests]
        engine.let_go()
        await first
        for texts, answer in zip(requests, await asyncio.gather(*others), strict=True):
            assert answer.batch_texts == len(requests)
            assert_same(answer.vectors, engine.alone(texts))

    run(story)


def test_a_batcher_shares_the_interpreter_and_returns_memory(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[MemoryTrimmer] = []
    monkeypatch.setattr(MemoryTrimmer, "trim", lambda trimmer: trimmed.append(trimmer))
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)  # Python's own

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000_000)
        for _ in range(2):
            await batcher.embed([some_text(5, random.Random(1))])

    try:
        run(story)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        sys.setswitchinterval(before)
    assert trimmed
