"""A text that was asked for before gets the same bits without the engine, within a bound of bytes.

The oracle is a plain list of what was used last.
"""

import asyncio
import doctest
import random
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import assert_same
from watched import POISON, WatchedEngine, run, some_text, submit

from e5.embedder import Embedder
from e5.errors import NonFiniteError, QueueFullError
from e5.serving import EmbedRequest, Service, vector_cache
from e5.serving.batcher import Batcher
from e5.serving.vector_cache import ENTRY_BYTES, VectorCache, key_of
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.vectors import Vectors

DIMENSIONS = 64  # of the checkpoint of these tests


def bytes_of(entries: int, dimensions: int = DIMENSIONS) -> int:
    return entries * (ENTRY_BYTES + 4 * dimensions)


class Oracle:
    """The texts of a cache, the least recently used one first, and the vector that each has."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.used: list[TokenIds] = []
        self.vectors: dict[TokenIds, Vectors] = {}

    def ask(self, texts: Sequence[TokenIds], vectors: Vectors) -> list[bool]:
        """Which texts of a request are there before it; `vectors` are those of its answer."""
        there = [text in self.used for text in texts]
        for wanted in (True, False):
            for text, was_there, vector in zip(texts, there, vectors, strict=True):
                if was_there is wanted:
                    if text in self.used:
                        self.used.remove(text)
                    else:
                        self.vectors[text] = vector
                    self.used.append(text)
                    self.used = self.used[-self.entries :]
        return there


@pytest.mark.parametrize("entries", [1, 2, 7, 40])
def test_the_texts_that_were_used_last_are_there_and_no_others(entries: int) -> None:
    draw = random.Random(entries)
    cache, oracle = VectorCache(bytes_of(entries, 2) + 1, 2), Oracle(entries)
    for number in range(300):
        texts = [(1, draw.randint(3, 40), 2) for _ in range(draw.choice([0, 1, 3, 12]))]
        keys = [key_of(text) for text in texts]
        found = cache.find(keys)
        others = [i for i in range(len(texts)) if i not in found]
        fresh = np.full((len(others), 2), number, np.float32)
        cache.keep([keys[i] for i in others], fresh)
        rows = np.full((len(texts), 2), number, np.float32)
        there = oracle.ask(texts, rows)
        assert [i in found for i in range(len(texts))] == there
        for i, vector in found.items():
            assert (vector == oracle.vectors[texts[i]]).all()
        assert cache.nbytes == bytes_of(len(oracle.used), 2)


def test_a_cache_with_room_for_no_vector_keeps_none() -> None:
    cache = VectorCache(bytes_of(1, 2) - 1, 2)
    cache.keep([b"a", b"b"], np.ones((2, 2), np.float32))
    assert cache.find([b"a", b"b"]) == {}
    assert cache.nbytes == 0


def test_of_two_vectors_of_one_text_the_first_stays() -> None:
    cache = VectorCache(bytes_of(9, 2), 2)
    for value in (1, 2):
        cache.keep([b"a", b"a"], np.full((2, 2), value, np.float32))
    assert cache.find([b"a"])[0].tolist() == [1, 1]
    assert cache.nbytes == bytes_of(1, 2)


@pytest.mark.parametrize("entries", [1_000, 5_500])  # the table is just large enough, or too large
def test_the_reported_bytes_are_no_fewer_than_those_that_are_taken(entries: int) -> None:
    max_bytes = bytes_of(entries, 16)
    tracemalloc.start()
    try:
        cache, row = VectorCache(max_bytes, 16), np.ones((1, 16), np.float32)
        for number in range(2 * entries):
            cache.keep([key_of((number,))], row)
            if number + 1 == entries:
                assert cache.nbytes == max_bytes
        assert tracemalloc.get_traced_memory()[1] <= max_bytes
    finally:
        tracemalloc.stop()


def test_texts_that_differ_in_any_way_have_other_keys() -> None:
    texts = [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 2), (258,), (1, 1), (31_999, 2), (2**31,)]
    assert len({key_of(text) for text in texts}) == len(texts)
    assert key_of((1, 415, 2)) == key_of([1, 415, 2])


def test_threads_at_the_same_time_get_no_other_text_s_vector() -> None:
    cache, mistakes = VectorCache(bytes_of(30, 4), 4), []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(300):
            numbers = [draw.randint(0, 60) for _ in range(5)]
            keys = [key_of((number,)) for number in numbers]
            for i, vector in cache.find(keys).items():
                if (vector != numbers[i]).any():
                    mistakes.append(numbers[i])
            cache.keep(keys, np.repeat(np.array(numbers, np.float32), 4).reshape(-1, 4))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mistakes
    assert cache.nbytes == bytes_of(30, 4)


def test_requests_get_what_the_engine_gave_first_and_only_other_texts_are_computed(
    engine: WatchedEngine,
) -> None:
    draw = random.Random(1)
    texts = [some_text(draw.randint(3, 30), draw) for _ in range(25)]
    oracle = Oracle(12)

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=10_000, cache_bytes=bytes_of(12))
        for _ in range(60):
            asked = draw.choices(texts, k=draw.choice([1, 1, 2, 5, 9]))
            engine.forwards.clear()
            answer = await batcher.embed(asked)
            there = oracle.ask(asked, answer.vectors)
            assert answer.cached == sum(there)
            computed = [text for forward in engine.forwards for text in forward]
            assert computed == [
                text for text, is_there in zip(asked, there, strict=True) if not is_there
            ]
            for text, vector, is_there in zip(asked, answer.vectors, there, strict=True):
                if is_there:
                    assert vector.tobytes() == oracle.vectors[text].tobytes()
            assert_same(answer.vectors, engine.alone(asked))
            if all(there):
                assert (answer.queue_ms, answer.forward_ms, answer.batch_texts) == (0, 0, 0)
            assert batcher.cache_bytes == bytes_of(len(oracle.used))

    run(story)


def test_many_requests_at_the_same_time_get_their_own_vectors(engine: WatchedEngine) -> None:
    draw = random.Random(2)
    texts = [some_text(draw.randint(3, 30), draw) for _ in range(20)]
    requests = [draw.choices(texts, k=draw.randint(1, 6)) for _ in range(60)]

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=100_000, cache_bytes=bytes_of(10))
        for start in range(0, 60, 20):
            asked = requests[start : start + 20]
            answers = await asyncio.gather(*map(batcher.embed, asked))
            for given, answer in zip(asked, answers, strict=True):
                assert_same(answer.vectors, engine.alone(given))
        assert batcher.cache_bytes == bytes_of(10)

    run(story)


def test_vectors_that_were_returned_may_be_changed(engine: WatchedEngine) -> None:
    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=1_000, cache_bytes=10**6)
        first, again, last = [(await batcher.embed([(1, 12, 2)])).vectors.copy(), None, None]
        again = (await batcher.embed([(1, 12, 2)])).vectors
        again *= 0
        last = (await batcher.embed([(1, 12, 2)])).vectors
        assert (last == first).all()

    run(story)


def test_a_request_with_a_bad_text_keeps_nothing_and_names_its_position(
    poisoned: Embedder,
) -> None:
    good, other, bad = (1, 12, 2), (1, 13, 2), (1, POISON, 2)

    async def story() -> None:
        batcher = Batcher(poisoned, max_queue_tokens=1_000, cache_bytes=10**6)
        await batcher.embed([good])
        for _ in range(2):
            with pytest.raises(NonFiniteError) as failure:
                await batcher.embed([good, other, bad])
            assert failure.value.position == 2
        assert batcher.cache_bytes == bytes_of(1)
        assert (await batcher.embed([good, other])).cached == 1

    run(story)


def test_kept_texts_are_answered_beside_a_full_queue_and_refused_ones_are_not_kept(
    engine: WatchedEngine,
) -> None:
    chance = random.Random(3)
    kept, running, waiting, refused = ([some_text(40, chance)] for _ in range(4))

    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=50, cache_bytes=10**6)
        await batcher.embed(kept)
        engine.hold()
        first = await submit(batcher, running)
        await engine.has_started(2)
        second = await submit(batcher, waiting)
        with pytest.raises(QueueFullError):
            await batcher.embed([*kept, *refused])
        assert (await batcher.embed(kept * 2)).cached == 2
        second.cancel()
        engine.let_go()
        await first
        assert batcher.cache_bytes == bytes_of(2)

    run(story)


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_a_request_without_texts_is_answered(engine: WatchedEngine, cache_bytes: int) -> None:
    async def story() -> None:
        batcher = Batcher(engine.embedder, max_queue_tokens=50, cache_bytes=cache_bytes)
        answer = await batcher.embed([])
        assert answer.vectors.shape == (0, DIMENSIONS)
        assert answer.cached == (0 if cache_bytes else None)

    run(story)


def test_dimensions_norm_and_usage_are_those_of_each_request(checkpoint: Path) -> None:
    settings = Settings(weights=checkpoint, device="cpu", dtype="float32", cache_mb=1)
    inputs: list[dict[str, Any]] = [
        {},
        {"normalize": True},
        {"dimensions": 10},
        {"dimensions": 10, "normalize": True},
        {"encoding_format": "base64"},
    ]

    async def story() -> None:
        service = Service.load(settings)
        assert isinstance(service._model, Embedder)
        plain = Service.of(service._model, max_queue_tokens=1_000)
        for number, options in enumerate(inputs):
            request = EmbedRequest.parse(query="snow", documents=["snow", "rain"], **options)
            answer, expected = await service.answer(request), await plain.answer(request)
            assert_same(answer.vectors, expected.vectors)
            assert np.allclose(answer.scores, expected.scores, atol=1e-3)
            assert (answer.tokens, answer.truncated) == (expected.tokens, expected.truncated)
            assert answer.metrics["cached"] == (3 if number else 0)
            assert answer.metrics["tokens"] == expected.metrics["tokens"]
            assert "cached" not in expected.metrics
        assert service.cache_bytes == bytes_of(3)
        assert plain.cache_bytes == 0

    run(story)


def test_the_example_in_the_docstring_is_right() -> None:
    assert doctest.testmod(vector_cache, raise_on_error=True).attempted > 0
