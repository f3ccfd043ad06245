"""Merges the token ids of concurrent requests into common forwards, which one thread runs.

On a GPU one short text takes as long as fifty, because either way all weights are read once. So
whenever the engine is free, it takes waiting texts, up to its token budget; it never waits for more
to come.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from e5.device import ForkGuard
from e5.embedder import Embedder
from e5.errors import EngineError, NonFiniteError, QueueFullError, RequestTooLargeError, TextError
from e5.packing import TokenIds
from e5.serving.liveness import Liveness
from e5.serving.memory import MemoryTrimmer
from e5.serving.waiting import QueuedRequest, RequestQueue, RequestSlice
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

# Seconds that a thread may keep the interpreter while another wants it; Python's own are 5 ms. The
# engine's thread keeps it while it launches kernels, and callers' requests wait for it each time.
SWITCH_SECONDS = 0.001

ENGINE_FAILED = "the engine failed; the service's log has the reason."


@dataclass(frozen=True)
class BatchedVectors:
    """One request's vectors, and the forwards that computed them.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, in the request's order.
        queue_ms: milliseconds from submission to the start of its first forward.
        forward_ms: milliseconds of all forwards that contained any of its texts.
        batch_texts: texts in its last forward, including those of other requests.
    """

    vectors: Vectors
    queue_ms: float
    forward_ms: float
    batch_texts: int


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
    """The queue in front of an embedder, and the thread that empties it."""

    def __init__(self, embedder: Embedder, *, max_queue_tokens: int) -> None:
        """Start the thread; a request is refused if more than `max_queue_tokens` would wait."""
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        self._embedder, self.max_queue_tokens = embedder, max_queue_tokens
        self._liveness, self._memory, self._fork_guard = Liveness(), MemoryTrimmer(), ForkGuard()
        self._has_ended = False
        self._queue = RequestQueue[_Request]()
        self._changed = threading.Condition()  # its lock may be taken again by its holder
        self._thread = threading.Thread(target=self._run_thread, name="e5-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """See `Service.healthy`."""
        return not self._has_ended and self._liveness.healthy

    @property
    def waiting_tokens(self) -> int:
        """The number of tokens in the queue, not given to a forward yet."""
        with self._changed:
            return self._queue.tokens

    def check_capacity(self, num_tokens: int) -> None:
        """Refuse a request of `num_tokens` or more with the error with which `embed` would."""
        limit, waiting = self.max_queue_tokens, self.waiting_tokens
        if num_tokens > limit:
            raise RequestTooLargeError(num_tokens, limit)
        if self._has_ended:  # nobody would answer
            raise EngineError(ENGINE_FAILED)
        if waiting + num_tokens > limit:
            raise QueueFullError(waiting, num_tokens, limit)

    async def embed(self, sequences: Sequence[TokenIds]) -> BatchedVectors:
        """Queue the texts and wait for their vectors; cancelling takes them out of the queue.

        Raises what `Service.answer` raises for texts that are tokenised, and EngineError in a fork.
        """
        self._fork_guard.check()  # a fork has no thread that would answer
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
                    continue
                self._compute(slices)
                self._memory.trim()
                with self._changed:
                    self._queue.rotate(slices)
        except BaseException as error:  # a mistake of ours: nobody shall wait for ever
            self._liveness.engine_failed()
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
            computed = self._embedder.compute(sequences)
            if len(computed.vectors) != len(sequences):
                raise EngineError(f"{len(sequences)} texts, {len(computed.vectors)} vectors")
            bad = sum(isinstance(error, NonFiniteError) for error in computed.faults.values())
            self._liveness.forward_ended(len(sequences), bad)
        except Exception as error:
            if len(slices) > 1:
                logger.warning("a forward failed: each request in it alone", exc_info=error)
                for part in slices:
                    self._compute([part])
            else:
                self._fail(slices[0], error)
            return
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

    def _store(
        self, part: _Slice, vectors: Vectors, started: float, seconds: float, batch_texts: int
    ) -> None:
        """Keep a slice's vectors, and settle the request if they were its last."""
        request = part.request
        request.vectors[part.start : part.stop] = vectors
        request.started = request.started or started
        request.forward_seconds += seconds
        request.num_computed += len(vectors)
        if request.num_computed == len(request.sequences):
            queue_ms = (request.started - request.submitted) * 1e3
            forward_ms = request.forward_seconds * 1e3
            request.settle(BatchedVectors(request.vectors, queue_ms, forward_ms, batch_texts))

    def _fail(self, part: _Slice, error: Exception) -> None:
        if not isinstance(error, TextError):
            logger.error("the engine failed", exc_info=error)
            self._liveness.engine_failed()
            error = EngineError(ENGINE_FAILED)
        part.request.settle(error)
