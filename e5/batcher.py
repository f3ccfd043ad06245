"""Merges the token ids of concurrent requests into common forwards.

On a GPU one short text costs as much as fifty, because either way all weights are read once. So
whenever the engine is free it takes what waits, up to its token budget, and computes it in one
forward; it never waits for more to come. First come, first served; a request too large for one
forward gives way after each piece to whoever came meanwhile.

Knows nothing of texts, HTTP or Cog; one thread of its own runs all forwards.
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
from e5.errors import E5Error, EngineError, NonFiniteError, QueueFullError
from e5.packing import TokenIds
from e5.vectors import Vectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batched:
    """One request's share of the forwards it took part in.

    Attributes:
        vectors: float32 `[num_texts, hidden_size]`, in the request's order.
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
    token_ids: Sequence[TokenIds]
    future: asyncio.Future[Batched]
    vectors: Vectors
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    forward_seconds: float = 0.0
    taken: int = 0  # texts given to a forward so far
    finished: int = 0  # texts whose vectors are there

    @property
    def waiting_tokens(self) -> int:
        return sum(map(len, self.token_ids[self.taken :]))


@dataclass(frozen=True)
class _Piece:
    request: _Request
    start: int
    stop: int

    @property
    def token_ids(self) -> Sequence[TokenIds]:
        return self.request.token_ids[self.start : self.stop]


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
            embedder: what computes; nobody else may use it meanwhile.
            max_queue_tokens: refuse new requests while this many tokens wait.
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

    async def embed(self, token_ids: Sequence[TokenIds]) -> Batched:
        """Queue the texts and wait for their vectors; cancelling takes them out of the queue.

        Raises:
            QueueFullError: too many tokens wait already.
            NonFiniteError: one of these texts has no finite vector; `position` says which.
            OutOfMemoryError: one of these texts does not fit in memory.
            EngineError: the engine broke; `healthy` is False from then on.
        """
        vectors = np.empty((len(token_ids), self._embedder.hidden_size), np.float32)
        if not token_ids:
            return Batched(vectors, queue_ms=0, forward_ms=0, batch_texts=0)
        request = _Request(token_ids, asyncio.get_running_loop().create_future(), vectors)
        with self._changed:
            waiting = sum(r.waiting_tokens for r in self._waiting if not r.future.cancelled())
            if waiting >= self._max_queue_tokens:
                raise QueueFullError(waiting, self._max_queue_tokens)
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
            last = pieces[-1].request
            if last.taken < len(last.token_ids):
                with self._changed:  # behind whoever came during the forward
                    self._waiting.append(last)

    def _take(self) -> list[_Piece]:
        """The next forward's texts: at least one, then as many as the budget holds."""
        pieces: list[_Piece] = []
        room = self._embedder.max_batch_tokens
        while self._waiting:
            request = self._waiting[0]
            if request.future.done():  # cancelled, or failed by an earlier piece
                self._waiting.popleft()
                continue
            start = request.taken
            for ids in request.token_ids[start:]:
                if len(ids) > room and (pieces or request.taken > start):
                    break
                room -= len(ids)
                request.taken += 1
            if request.taken > start:
                pieces.append(_Piece(request, start, request.taken))
            else:
                break  # its next text must wait for the next forward
            self._waiting.popleft()
            if request.taken < len(request.token_ids):
                break  # `_work` puts it back after this forward
        return pieces

    def _run(self, pieces: Sequence[_Piece]) -> None:
        """Compute the pieces in one forward; where it fails, whoever is not at fault goes again."""
        started = time.perf_counter()
        try:
            vectors = self._embedder.embed([ids for piece in pieces for ids in piece.token_ids])
        except NonFiniteError as error:
            position = error.position
            for i, piece in enumerate(pieces):
                if position < len(piece.token_ids):
                    _settle(piece.request.future, NonFiniteError(piece.start + position))
                    others = [*pieces[:i], *pieces[i + 1 :]]
                    if others:
                        self._run(others)
                    break
                position -= len(piece.token_ids)
        except Exception as error:
            if len(pieces) > 1:
                for piece in pieces:
                    self._run([piece])
            else:
                self._fail(pieces[0], error)
        else:
            self._hand_out(vectors, pieces, started, time.perf_counter() - started)

    def _hand_out(
        self, vectors: Vectors, pieces: Sequence[_Piece], started: float, seconds: float
    ) -> None:
        row = 0
        for piece in pieces:
            request = piece.request
            size = piece.stop - piece.start
            request.vectors[piece.start : piece.stop] = vectors[row : row + size]
            row += size
            request.started = request.started or started
            request.forward_seconds += seconds
            request.finished += size
            if request.finished == len(request.token_ids):
                queue_ms = (request.started - request.submitted) * 1e3
                forward_ms = request.forward_seconds * 1e3
                batched = Batched(request.vectors, queue_ms, forward_ms, len(vectors))
                _settle(request.future, batched)

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
