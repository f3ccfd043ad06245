"""Merges the token ids of concurrent requests into common forwards.

On a GPU one short text takes as long as fifty, because either way all weights are read once. So
whenever the engine is free, it takes waiting texts, up to its token budget, and computes them in
one forward; it never waits for more to come.

One thread runs all forwards. Knows nothing of prompts, HTTP or Cog, nor of who goes first.
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
from e5.errors import (
    EngineError,
    NonFiniteError,
    QueueFullError,
    RequestTooLargeError,
    TextError,
)
from e5.packing import TokenIds
from e5.serving.liveness import Liveness
from e5.serving.memory import MemoryTrimmer
from e5.serving.waiting import Job, Piece, Waiting
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

# Seconds that a thread may keep the interpreter while another wants it; Python's own are 5 ms. The
# engine's thread keeps it while it launches kernels, and callers' requests wait for it each time.
SWITCH_SECONDS = 0.001

BROKEN = "the engine failed; the service's log has the reason."


@dataclass(frozen=True)
class Batched:
    """One request's share of the forwards it took part in.

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
class _Request(Job):
    future: asyncio.Future[Batched]
    vectors: Vectors
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    forward_seconds: float = 0.0
    finished: int = 0  # texts that have their vectors

    @property
    def is_over(self) -> bool:
        """Cancelled, or an earlier piece failed."""
        return self.future.done()


_Piece = Piece[_Request]


class Batcher:
    """The queue in front of an embedder, and the thread that empties it.

    Example, inside a coroutine:
        >>> batcher = Batcher(embedder, max_queue_tokens=1_000_000)
        >>> (await batcher.embed([(1, 415, 2)])).vectors.shape
        (1, 4096)
    """

    def __init__(self, embedder: Embedder, *, max_queue_tokens: int) -> None:
        """Start the thread.

        Args:
            embedder: computes the vectors.
            max_queue_tokens: refuse a request if more tokens than these would wait.
        """
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        self._pulse = Liveness()
        self._memory, self._process = MemoryTrimmer(), ForkGuard()
        self._has_ended = False
        self._embedder = embedder
        self._max_queue_tokens = max_queue_tokens
        self._waiting = Waiting[_Request]()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="e5-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """False once the engine has failed for a reason other than a text, or seems to hang."""
        return not self._has_ended and self._pulse.healthy

    @property
    def waiting_tokens(self) -> int:
        """In the queue, not given to a forward yet."""
        with self._changed:
            return self._waiting.tokens

    def check_room(self, num_tokens: int) -> None:
        """Refuse a request at once that would be refused anyway, before it is tokenised.

        Args:
            num_tokens: the least that it can have.

        Raises:
            RequestTooLargeError, QueueFullError, EngineError: as `embed`.
        """
        with self._changed:
            self._check_room(num_tokens)

    def _check_room(self, num_tokens: int) -> None:
        limit = self._max_queue_tokens
        if num_tokens > limit:
            raise RequestTooLargeError(num_tokens, limit)
        if self._has_ended:  # nobody would answer
            raise EngineError(BROKEN)
        waiting = self._waiting.tokens
        if waiting + num_tokens > limit:
            raise QueueFullError(waiting, num_tokens, limit)

    async def embed(self, sequences: Sequence[TokenIds]) -> Batched:
        """Queue the texts and wait for their vectors; cancelling takes them out of the queue.

        Raises:
            RequestTooLargeError: the request has more tokens than the queue can ever hold.
            QueueFullError: too many tokens are already waiting.
            TextError: one of these texts has no vector; `position` says which.
            EngineError: the engine broke, and `healthy` is False from then on; or this is a fork.
        """
        self._process.check()  # a fork has no thread that would answer
        vectors = np.empty((len(sequences), self._embedder.dimensions), np.float32)
        if not sequences:
            return Batched(vectors, queue_ms=0, forward_ms=0, batch_texts=0)
        request = _Request(sequences, asyncio.get_running_loop().create_future(), vectors)
        with self._changed:
            self._check_room(request.waiting_tokens)
            self._waiting.jobs.append(request)
            self._changed.notify()
        return await request.future

    def _work(self) -> None:
        pieces: list[_Piece] = []
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting.jobs)
                    pieces = self._waiting.take(self._embedder.max_batch_tokens)
                if not pieces:  # every waiting request was cancelled
                    continue
                self._run(pieces)
                self._memory.give_back()
                with self._changed:
                    self._waiting.to_the_end(pieces)
        except BaseException as error:  # a mistake of ours: nobody shall wait for ever
            self._pulse.failed()
            logger.critical("the engine's thread ended", exc_info=error)
            with self._changed:
                left = {id(r): r for r in (*(p.job for p in pieces), *self._waiting.jobs)}
                self._waiting.jobs.clear()
                self._has_ended = True
            for request in left.values():
                _settle(request.future, EngineError(BROKEN))

    def _run(self, pieces: Sequence[_Piece]) -> None:
        """Compute the pieces in one forward; if it fails, each alone, so that good ones succeed."""
        started = time.perf_counter()
        sequences = [ids for piece in pieces for ids in piece.sequences]
        try:
            self._pulse.begun(sum(map(len, sequences)))
            computed = self._embedder.compute(sequences)
            if len(computed.vectors) != len(sequences):
                raise EngineError(f"{len(sequences)} texts, {len(computed.vectors)} vectors")
            bad = sum(isinstance(error, NonFiniteError) for error in computed.faults.values())
            self._pulse.ended(len(sequences), bad)
        except Exception as error:
            if len(pieces) > 1:
                logger.warning("a forward failed: each request in it alone", exc_info=error)
                for piece in pieces:
                    self._run([piece])
            else:
                self._fail(pieces[0], error)
            return
        seconds = time.perf_counter() - started
        vectors, row = computed.vectors, 0
        for piece in pieces:
            rows = range(row, row + len(piece.sequences))
            row = rows.stop
            fault = next((i for i in rows if i in computed.faults), None)
            if fault is None:
                self._hand_over(
                    piece, vectors[rows.start : rows.stop], started, seconds, len(vectors)
                )
            else:
                position = piece.start + fault - rows.start
                self._fail(piece, computed.faults[fault].at(position))

    def _hand_over(
        self, piece: _Piece, rows: Vectors, started: float, seconds: float, batch_texts: int
    ) -> None:
        request = piece.job
        request.vectors[piece.start : piece.stop] = rows
        request.started = request.started or started
        request.forward_seconds += seconds
        request.finished += len(rows)
        if request.finished == len(request.sequences):
            queue_ms = (request.started - request.submitted) * 1e3
            forward_ms = request.forward_seconds * 1e3
            _settle(request.future, Batched(request.vectors, queue_ms, forward_ms, batch_texts))

    def _fail(self, piece: _Piece, error: Exception) -> None:
        if not isinstance(error, TextError):
            logger.error("the engine failed", exc_info=error)
            self._pulse.failed()
            error = EngineError(BROKEN)
        _settle(piece.job.future, error)


def _settle(future: asyncio.Future[Batched], outcome: Batched | Exception) -> None:
    """Hand the outcome to the waiting coroutine, on its own event loop."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    with suppress(RuntimeError):  # the loop is closed: no caller waits any more
        future.get_loop().call_soon_threadsafe(settle)
