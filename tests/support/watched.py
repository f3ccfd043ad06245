"""An engine whose forwards can be watched and held back, and what runs a test's coroutine.

It is the real engine on a small random checkpoint. What arrives during a forward does not depend on
the machine's speed.
"""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from e5.embedder import Embedder
from e5.engine import Engine
from e5.serving.batcher import Batcher
from e5.serving.engine_queue import BatchedVectors
from e5.tokenizer import TokenIds
from e5.vectors import Vectors

BUDGET = 256  # tokens of one forward
POISON = 31_999  # a token whose embedding is NaN


class WatchedEngine(Engine):
    """An engine that records each forward; after `hold`, each one needs a permit of `let_go`."""

    def __init__(self, embedder: Embedder) -> None:
        """Take over the model of a loaded embedder."""
        super().__init__(embedder._engine.model, max_batch_tokens=BUDGET)
        self.embedder = Embedder(self, embedder.prompt_tokenizer.tokenizer, name="watched")
        self.forwards: list[list[TokenIds]] = []
        self._held = False
        self._permits = threading.Semaphore(0)

    def compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool = True) -> Vectors:
        """Record, wait for a permit if held, compute."""
        self.forwards.append(list(sequences))
        if self._held:
            assert self._permits.acquire(timeout=30)
        return super().compute(sequences, share_prefixes=share_prefixes)

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


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine function; it fails if it hangs."""

    async def bounded() -> None:
        await asyncio.wait_for(story(), 60)

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def submit(batcher: Batcher, texts: Sequence[TokenIds]) -> asyncio.Task[BatchedVectors]:
    """A request that is in the queue when this returns."""
    task = asyncio.create_task(batcher.embed(texts))
    await asyncio.sleep(0)
    return task


def some_text(length: int, chance: random.Random, prefix: TokenIds = ()) -> TokenIds:
    body = chance.choices(range(3, POISON), k=length - 2 - len(prefix))
    return (1, *prefix, *body, 2)
