"""Vectors are handed over while the next forward runs on a card, and at once where none comes.

The card is the CPU: what it computed can be had only when a test lets it be copied.
"""

import asyncio
import random
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from reference import assert_same
from watched import WatchedEngine, run, some_text, submit, until

from e5.embedder import Embedder
from e5.engine import Engine
from e5.errors import EngineError, OutOfMemoryError
from e5.serving.batcher import Batcher
from e5.serving.engine_queue import BatchedVectors
from e5.tokenizer import TokenIds

FIRST, SECOND, THIRD = [(1, 12, 2)], [(1, 13, 2)], [(1, 14, 2)]


class LaunchingEngine(WatchedEngine):
    """An engine whose launches and copies back each need a permit.

    Attributes:
        fails_with: raised instead of a launch.
        launching: the batches whose launches have begun.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(embedder)
        self.embedder.launches_ahead = True
        self.fails_with: Exception | None = None
        self.launching: list[Sequence[TokenIds]] = []
        self.launches, self.copies = threading.Semaphore(0), threading.Semaphore(0)

    def _vectors(self, texts: Sequence[TokenIds], share_prefixes: bool) -> torch.Tensor:
        self.launching.append(texts)
        assert self.launches.acquire(timeout=30)
        if self.fails_with is not None:
            raise self.fails_with
        running = _Running()
        running.rows, running.copies = super()._vectors(texts, share_prefixes), self.copies
        return cast(torch.Tensor, running)


class _Running:
    """The vectors of a batch that the card computes."""

    rows: torch.Tensor
    copies: threading.Semaphore

    def cpu(self) -> torch.Tensor:
        assert self.copies.acquire(timeout=30)
        return self.rows


@pytest.fixture
def launching(sound: Embedder) -> LaunchingEngine:
    return LaunchingEngine(sound)


def truth(engine: LaunchingEngine, texts: Sequence[TokenIds]) -> Any:
    rows = [Engine._vectors(engine, [ids], share_prefixes=True).numpy() for ids in texts]
    return np.concatenate(rows)


async def two_requests(
    engine: LaunchingEngine, batcher: Batcher
) -> tuple["asyncio.Task[BatchedVectors]", "asyncio.Task[BatchedVectors]"]:
    """One that the card has begun, and one that waits."""
    first = await submit(batcher, FIRST)
    await until(lambda: engine.launching == [FIRST])
    engine.launches.release()
    return first, await submit(batcher, SECOND)


def test_vectors_are_handed_over_between_the_next_launch_and_its_copy(
    launching: LaunchingEngine,
) -> None:
    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        first, second = await two_requests(launching, batcher)
        launching.copies.release()
        await until(lambda: launching.launching == [FIRST, SECOND])
        await asyncio.sleep(0.02)
        assert not first.done(), "nothing disturbs the launches"
        launching.launches.release()
        assert_same((await first).vectors, truth(launching, FIRST))
        assert not second.done()
        launching.copies.release()
        assert_same((await second).vectors, truth(launching, SECOND))

    run(story)


def test_vectors_are_handed_over_at_once_where_nothing_waits(launching: LaunchingEngine) -> None:
    launching.launches.release(2)
    launching.copies.release(2)

    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        for texts in (FIRST, SECOND):
            assert_same((await batcher.embed(texts)).vectors, truth(launching, texts))

    run(story)


def test_a_cancelled_request_delays_no_other(launching: LaunchingEngine) -> None:
    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        first, second = await two_requests(launching, batcher)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        launching.copies.release()
        assert_same((await first).vectors, truth(launching, FIRST))

    run(story)


def test_a_held_request_may_be_cancelled(launching: LaunchingEngine) -> None:
    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        first, second = await two_requests(launching, batcher)
        launching.copies.release()
        await until(lambda: launching.launching == [FIRST, SECOND])
        first.cancel()
        launching.launches.release()
        launching.copies.release()
        assert_same((await second).vectors, truth(launching, SECOND))
        assert first.cancelled()
        assert batcher.healthy

    run(story)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(RuntimeError("lost"), EngineError), (torch.OutOfMemoryError("full"), OutOfMemoryError)],
)
def test_a_launch_that_fails_costs_no_vectors_of_the_forward_before(
    failure: Exception, kind: type[Exception], launching: LaunchingEngine
) -> None:
    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        first, second = await two_requests(launching, batcher)
        launching.copies.release()
        await until(lambda: launching.launching == [FIRST, SECOND])
        third = await submit(batcher, THIRD)
        launching.fails_with = failure
        launching.launches.release()
        assert_same((await first).vectors, truth(launching, FIRST))
        with pytest.raises(kind):
            await second
        assert not third.done(), "its launch still needs a permit"
        launching.fails_with = None
        launching.launches.release()
        launching.copies.release()
        assert_same((await third).vectors, truth(launching, THIRD))

    run(story)


def test_a_batch_that_is_halved_gives_each_request_its_own(launching: LaunchingEngine) -> None:
    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        first, second = await two_requests(launching, batcher)
        third = await submit(batcher, THIRD)
        launching.copies.release()
        await until(lambda: launching.launching == [FIRST, [*SECOND, *THIRD]])
        launching.fails_with = torch.OutOfMemoryError("full")
        launching.launches.release()
        await until(lambda: len(launching.launching) == 3)
        launching.fails_with = None
        launching.launches.release(2)
        assert_same((await first).vectors, truth(launching, FIRST))
        launching.copies.release(2)
        for request, texts in ((second, SECOND), (third, THIRD)):
            assert_same((await request).vectors, truth(launching, texts))
        assert launching.launching[2:] == [SECOND, THIRD]

    run(story)


@pytest.mark.parametrize("method", ["take", "_compute"])
def test_a_thread_that_ends_hands_over_what_it_holds(
    method: str, launching: LaunchingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise IndexError("list index out of range")

    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000)
        first, second = await two_requests(launching, batcher)
        monkeypatch.setattr(batcher._queue if method == "take" else batcher, method, mistaken)
        launching.copies.release()
        assert_same((await first).vectors, truth(launching, FIRST))
        with pytest.raises(EngineError):
            await second

    run(story)


def test_many_requests_at_the_same_time_get_their_own_vectors(launching: LaunchingEngine) -> None:
    draw = random.Random(0)
    requests = [
        [some_text(draw.randint(3, 40), draw) for _ in range(draw.choice([1, 1, 3, 12]))]
        for _ in range(60)
    ]
    launching.launches.release(10_000)
    launching.copies.release(10_000)

    async def story() -> None:
        batcher = Batcher(launching.embedder, max_queue_tokens=1_000_000)
        answers = await asyncio.gather(*map(batcher.embed, requests))
        for texts, answer in zip(requests, answers, strict=True):
            assert_same(answer.vectors, truth(launching, texts))
        assert len(launching.forwards) > 3

    run(story)


def test_on_a_cpu_no_answer_waits_for_the_next_forward(engine: WatchedEngine) -> None:
    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000)
        engine.hold()
        first = await submit(batcher, FIRST)
        await engine.has_started(1)
        second = await submit(batcher, SECOND)
        engine.let_go(1)
        assert_same((await first).vectors, engine.alone(FIRST))
        assert not second.done(), "it still needs a permit"
        engine.let_go(1)
        await second

    run(story)


def test_on_a_cpu_requests_that_are_tried_alone_wait_for_no_other(sound: Embedder) -> None:
    class FragileEngine(WatchedEngine):
        def compute(self, sequences: Sequence[TokenIds], **options: bool) -> Any:
            vectors = super().compute(sequences, **options)
            if len(sequences) > 1:
                raise RuntimeError("only alone")
            return vectors

    engine = FragileEngine(sound)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000)
        engine.hold()
        blocking = await submit(batcher, [(1, 20, 2)])
        await engine.has_started(1)
        first, second = [await submit(batcher, texts) for texts in (FIRST, SECOND)]
        engine.let_go(3)
        await blocking
        assert_same((await first).vectors, engine.alone(FIRST))
        assert not second.done(), "it still needs a permit"
        engine.let_go(1)
        await second

    run(story)
