"""Merges the token ids of concurrent requests into common forwards, which one thread runs.

On a card one short text takes as long as fifty, because either way all weights are read once. So
whenever the engine is free, it takes waiting texts, up to its token budget; it never waits for more
to come.

To answer callers takes Python's lock, which launching a forward needs too. So vectors are handed
over while the card computes the next forward; at once where there is no card, or nothing waits.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from e5.device import ForkGuard
from e5.embedder import Embedder
from e5.errors import EngineError, NonFiniteError, QueueFullError, RequestTooLargeError, TextError
from e5.serving.engine_queue import ENGINE_FAILED, BatchedVectors
from e5.serving.liveness import Liveness
from e5.serving.memory import MemoryTrimmer
from e5.serving.vector_cache import VectorCache, key_of
from e5.serving.waiting import QueuedRequest, RequestQueue, RequestSlice
from e5.tokenizer import TokenIds
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

# Seconds that a thread may keep the interpreter while another wants it; Python's own are 5 ms. The
# engine's thread keeps it while it launches kernels, and callers' requests wait for it each time.
SWITCH_SECONDS = 0.001


@dataclass(eq=False)
class _Request(QueuedRequest):
    future: asyncio.Future[BatchedVectors]
    vectors: Vectors
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    forward_seconds: float = 0.0
    num_computed: int = 0  # texts that have their vectors

    @property
    def is_over(self) -> bool:
        """Whether it was cancelled, or an earlier slice failed."""
        return self.future.done()

    def settle(self, outcome: BatchedVectors | Exception) -> None:
        """Give the outcome to the waiting coroutine, on its own event loop."""

        def set_outcome() -> None:
            if self.future.done():
                return
            if isinstance(outcome, Exception):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        with suppress(RuntimeError):  # the loop is closed: no caller waits any more
            self.future.get_loop().call_soon_threadsafe(set_outcome)


_Slice = RequestSlice[_Request]


class Batcher:
    """The queue in front of an embedder, and the thread that empties it. An `EngineQueue`."""

    def __init__(self, embedder: Embedder, *, max_queue_tokens: int, cache_bytes: int = 0) -> None:
        """Start the thread.

        A request is refused if more than `max_queue_tokens` would wait. Vectors of earlier
        requests are kept in `cache_bytes`.
        """
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        self._embedder, self.max_queue_tokens = embedder, max_queue_tokens
        self._liveness, self._memory, self._fork_guard = Liveness(), MemoryTrimmer(), ForkGuard()
        self._has_ended = False
        self._cache = VectorCache(cache_bytes, embedder.dimensions) if cache_bytes else None
        self._queue = RequestQueue[_Request]()
        self._held: list[tuple[_Request, BatchedVectors]] = []  # complete, not handed over yet
        self._changed = threading.Condition()  # its lock may be taken again by its holder
        self._thread = threading.Thread(target=self._run_thread, name="e5-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """See `EngineQueue.healthy`."""
        return not self._has_ended and self._liveness.healthy

    @property
    def waiting_tokens(self) -> int:
        """See `EngineQueue.waiting_tokens`."""
        with self._changed:
            return self._queue.tokens

    @property
    def cache_bytes(self) -> int:
        """See `Service.cache_bytes`."""
        return 0 if self._cache is None else self._cache.nbytes

    def check_capacity(self, num_tokens: int) -> None:
        """See `EngineQueue.check_capacity`."""
        limit, waiting = self.max_queue_tokens, self.waiting_tokens
        if num_tokens > limit:
            raise RequestTooLargeError(num_tokens, limit)
        if self._has_ended:  # nobody would answer
            raise EngineError(ENGINE_FAILED)
        if waiting + num_tokens > limit:
            raise QueueFullError(waiting, num_tokens, limit)

    async def embed(self, sequences: Sequence[TokenIds]) -> BatchedVectors:
        """See `EngineQueue.embed`; texts whose vectors are in the cache are not queued.

        Raises EngineError in a fork.
        """
        self._fork_guard.check()  # a fork has no thread that would answer
        if self._cache is None:
            return await self._queue_up(sequences)
        keys = [key_of(ids) for ids in sequences]
        kept = self._cache.find(keys)
        others = [i for i in range(len(sequences)) if i not in kept]
        try:
            computed = await self._queue_up([sequences[i] for i in others])
        except TextError as error:
            raise error.at(others[error.position]) from error
        self._cache.keep([keys[i] for i in others], computed.vectors)
        vectors = np.empty((len(sequences), self._embedder.dimensions), np.float32)
        vectors[others] = computed.vectors
        for i, vector in kept.items():
            vectors[i] = vector
        return replace(computed, vectors=vectors, cached=len(kept))

    async def _queue_up(self, sequences: Sequence[TokenIds]) -> BatchedVectors:
        """The vectors of texts that the engine must compute."""
        vectors = np.empty((len(sequences), self._embedder.dimensions), np.float32)
        if not sequences:
            return BatchedVectors(vectors, queue_ms=0, forward_ms=0, batch_texts=0)
        request = _Request(sequences, asyncio.get_running_loop().create_future(), vectors)
        with self._changed:
            self.check_capacity(request.waiting_tokens)
            self._queue.requests.append(request)
            self._changed.notify()
        return await request.future

    def _run_thread(self) -> None:
        slices: list[_Slice] = []
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue.requests)
                    slices = self._queue.take(self._embedder.max_batch_tokens)
                if not slices:  # every waiting request was cancelled
                    self._hand_over()
                    continue
                self._compute(slices)
                self._memory.trim()
                with self._changed:
                    self._queue.rotate(slices)
        except BaseException as error:  # a mistake of ours: nobody shall wait for ever
            self._liveness.engine_failed()
            self._hand_over()
            logger.critical("the engine's thread ended", exc_info=error)
            with self._changed:
                waiting = {*(part.request for part in slices), *self._queue.requests}
                self._queue.requests.clear()
                self._has_ended = True
            for request in waiting:
                request.settle(EngineError(ENGINE_FAILED))

    def _compute(self, slices: Sequence[_Slice]) -> None:
        """Compute the slices in one forward; if it fails, each alone, so that good ones succeed."""
        started = time.perf_counter()
        sequences = [ids for part in slices for ids in part.sequences]
        try:
            self._liveness.forward_started(sum(map(len, sequences)))
            computed = self._embedder.compute(sequences, launched=self._hand_over)
            if len(computed.vectors) != len(sequences):
                raise EngineError(f"{len(sequences)} texts, {len(computed.vectors)} vectors")
            bad = sum(isinstance(error, NonFiniteError) for error in computed.faults.values())
            self._liveness.forward_ended(len(sequences), bad)
        except Exception as error:
            self._hand_over()  # nothing may have been launched
            if len(slices) > 1:
                logger.warning("a forward failed: each request in it alone", exc_info=error)
                for part in slices:
                    self._compute([part])
            else:
                self._fail(slices[0], error)
            return
        self._hand_over()  # nothing was launched if no text fits in the card's memory
        seconds = time.perf_counter() - started
        vectors, row = computed.vectors, 0
        for part in slices:
            rows = range(row, row + len(part.sequences))
            row = rows.stop
            fault = next((i for i in rows if i in computed.faults), None)
            if fault is None:
                self._store(part, vectors[rows.start : rows.stop], started, seconds, len(vectors))
            else:
                position = part.start + fault - rows.start
                self._fail(part, computed.faults[fault].at(position))
        if not (self._embedder.launches_ahead and self._queue.requests):
            self._hand_over()

    def _store(
        self, part: _Slice, vectors: Vectors, started: float, seconds: float, batch_texts: int
    ) -> None:
        """Keep a slice's vectors; if they were the request's last, it can be handed over."""
        request = part.request
        request.vectors[part.start : part.stop] = vectors
        request.started = request.started or started
        request.forward_seconds += seconds
        request.num_computed += len(vectors)
        if request.num_computed == len(request.sequences):
            queue_ms = (request.started - request.submitted) * 1e3
            forward_ms = request.forward_seconds * 1e3
            batched = BatchedVectors(request.vectors, queue_ms, forward_ms, batch_texts)
            self._held.append((request, batched))

    def _hand_over(self) -> None:
        """Give the vectors that are held to their callers."""
        held, self._held = self._held, []
        for request, batched in held:
            request.settle(batched)

    def _fail(self, part: _Slice, error: Exception) -> None:
        if not isinstance(error, TextError):
            logger.error("the engine failed", exc_info=error)
            self._liveness.engine_failed()
            error = EngineError(ENGINE_FAILED)
        part.request.settle(error)
