"""Merges the token ids of concurrent requests into common forwards.

On a GPU one short text costs as much as fifty, because either way all weights are read once. So
whenever the engine is free it takes what waits, up to its token budget, and computes it in one
forward; it never waits for more to come. First come, first served; a request too large for one
forward gives way after each piece to whoever came meanwhile.

Knows nothing of texts, HTTP or Cog. One thread of its own runs all forwards.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from e5.embedder import Embedder
from e5.errors import E5Error, EngineError, QueueFullError, RequestTooLargeError
from e5.packing import TokenIds
from e5.vectors import Vectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batched:
    """One request's share of the forwards it took part in.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, in the request's order.
        queue_ms: from submission to the start of its first forward.
        forward_ms: spent in forwards that carried any of its texts.
        batch_texts: texts in its last forward, other requests' included.
    """

    vectors: Vectors
    queue_ms: float
    forward_ms: float
    batch_texts: int


@dataclass
class _Request:
    sequences: Sequence[TokenIds]
    future: asyncio.Future[Batched]
    vectors: Vectors
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    forward_seconds: float = 0.0
    taken: int = 0  # texts given to a forward so far
    finished: int = 0  # texts whose vectors are there

    def __post_init__(self) -> None:
        self.waiting_tokens = sum(map(len, self.sequences))  # not given to a forward yet


@dataclass(frozen=True)
class _Piece:
    request: _Request
    start: int
    stop: int

    @property
    def sequences(self) -> Sequence[TokenIds]:
        return self.request.sequences[self.start : self.stop]


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
            embedder: what computes.
            max_queue_tokens: refuse a request that would make more tokens wait.
        """
        self._failed = False
        self._embedder = embedder
        self._max_queue_tokens = max_queue_tokens
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="e5-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """False once the engine has failed for a reason that was nobody's text."""
        return self._thread.is_alive() and not self._failed

    async def embed(self, sequences: Sequence[TokenIds]) -> Batched:
        """Queue the texts and wait for their vectors; cancelling takes them out of the queue.

        Raises:
            RequestTooLargeError: more tokens than may wait at all.
            QueueFullError: too many tokens wait already.
            TextError: one of these texts has no vector; `position` says which.
            EngineError: the engine broke; `healthy` is False from then on.
        """
        vectors = np.empty((len(sequences), self._embedder.dimensions), np.float32)
        if not sequences:
            return Batched(vectors, queue_ms=0, forward_ms=0, batch_texts=0)
        request = _Request(sequences, asyncio.get_running_loop().create_future(), vectors)
        num_tokens, limit = request.waiting_tokens, self._max_queue_tokens
        if num_tokens > limit:
            raise RequestTooLargeError(num_tokens, limit)
        with self._changed:
            waiting = sum(r.waiting_tokens for r in self._waiting if not r.future.done())
            if waiting + num_tokens > limit:
                raise QueueFullError(waiting, num_tokens, limit)
            self._waiting.append(request)
            self._changed.notify()
        return await request.future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                pieces = self._take()
            if not pieces:  # all that waited was cancelled
                continue
            self._run(pieces)
            with self._changed:
                if self._waiting and self._waiting[0] is pieces[-1].request:
                    self._waiting.rotate(-1)  # behind whoever came during the forward

    def _take(self) -> list[_Piece]:
        """The next forward's texts: at least one, then as many as the budget holds."""
        pieces: list[_Piece] = []
        room = self._embedder.max_batch_tokens
        while self._waiting:
            request = self._waiting[0]
            start = request.taken
            if not request.future.done():  # it may be cancelled, or failed by an earlier piece
                for ids in request.sequences[start:]:
                    if len(ids) > room and (pieces or request.taken > start):
                        break
                    room -= len(ids)
                    request.taken += 1
                    request.waiting_tokens -= len(ids)
                if request.taken > start:
                    pieces.append(_Piece(request, start, request.taken))
                if request.taken < len(request.sequences):
                    break  # the rest of it waits for the next forward
            self._waiting.popleft()
        return pieces

    def _run(self, pieces: Sequence[_Piece]) -> None:
        """Compute the pieces in one forward; if it breaks, each alone, so that others do not."""
        started = time.perf_counter()
        try:
            computed = self._embedder.compute([ids for piece in pieces for ids in piece.sequences])
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
                self._fail(piece, computed.faults[fault].about(position))

    def _hand_over(
        self, piece: _Piece, rows: Vectors, started: float, seconds: float, batch_texts: int
    ) -> None:
        request = piece.request
        request.vectors[piece.start : piece.stop] = rows
        request.started = request.started or started
        request.forward_seconds += seconds
        request.finished += len(rows)
        if request.finished == len(request.sequences):
            queue_ms = (request.started - request.submitted) * 1e3
            forward_ms = request.forward_seconds * 1e3
            _settle(request.future, Batched(request.vectors, queue_ms, forward_ms, batch_texts))

    def _fail(self, piece: _Piece, error: Exception) -> None:
        if not isinstance(error, E5Error):
            logger.error("the engine failed", exc_info=error)
            self._failed = True
            error = EngineError("the engine failed; the service's log has the reason.")
        _settle(piece.request.future, error)


def _settle(future: asyncio.Future[Batched], outcome: Batched | Exception) -> None:
    """Hand the outcome to the waiting coroutine, on its own event loop."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(settle)
