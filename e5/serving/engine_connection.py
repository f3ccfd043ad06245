"""A front's connection to one engine: sends requests, and gives each reply to who waits for it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from e5.errors import E5Error
from e5.serving.engine_queue import BatchedVectors
from e5.serving.frames import (
    MAX_JSON_BYTES,
    STATE,
    EngineHello,
    EngineState,
    Frame,
    FrameError,
    FrameKind,
    FrameProtocol,
    answer_bytes,
    ask_frame,
    frame,
    read_answer,
    read_engine_error,
    read_hello,
    read_state,
)
from e5.tokenizer import TokenIds

logger = logging.getLogger(__name__)


@dataclass
class _Pending:
    """A request that waits for its reply."""

    future: asyncio.Future[BatchedVectors]
    num_texts: int
    num_tokens: int


class ConnectionEndedError(Exception):
    """The connection to an engine ended before its reply."""


class EngineConnection(FrameProtocol):
    """The connection to one engine, and the requests that wait for its replies.

    Attributes:
        path: the path of the engine's socket.
        hello: what the engine serves; None until it has said it.
        state: what the engine said last of itself.
        heard: the monotonic time at which it said that.
        own_tokens: the number of tokens of this process's requests that it has not replied to.
        turn: the number of the last request that was sent to it, of all that this process sends.
        ended: set once the connection has ended.
    """

    def __init__(
        self,
        path: Path,
        greet: "Callable[[EngineConnection, EngineHello], None]",
        leave: "Callable[[EngineConnection], None]",
    ) -> None:
        """Begin without a connection.

        Args:
            path: the path of the engine's socket.
            greet: called with what the engine serves; raises FrameError to refuse it.
            leave: called when the connection has ended.
        """
        super().__init__(f"the engine at {path}")
        self.path = path
        self.state, self.heard = EngineState(healthy=True, waiting_tokens=0), time.monotonic()
        self.own_tokens, self.turn = 0, -1
        self.ended = asyncio.Event()
        self._greet, self._leave = greet, leave
        self.hello: EngineHello | None = None
        self._pending: dict[int, _Pending] = {}
        self._numbers = count(1)

    async def ask(self, sequences: Sequence[TokenIds]) -> BatchedVectors:
        """Send a request, and wait for its reply; ConnectionEndedError if none comes."""
        number = next(self._numbers)
        future: asyncio.Future[BatchedVectors] = asyncio.get_running_loop().create_future()
        pending = _Pending(future, len(sequences), sum(map(len, sequences)))
        self._pending[number] = pending
        self.own_tokens += pending.num_tokens
        self.send(ask_frame(number, sequences))
        try:
            return await future
        except asyncio.CancelledError:
            if number in self._pending:
                self.send(frame(FrameKind.CANCEL, number))
            raise

    def max_bytes(self, kind: FrameKind, number: int) -> int:
        """See `FrameReader`."""
        hello, pending = self.hello, self._pending.get(number)
        if hello is None:
            return MAX_JSON_BYTES if kind is FrameKind.HELLO else super().max_bytes(kind, number)
        if kind is FrameKind.STATE:
            return STATE.size
        if pending is None or kind not in (FrameKind.ANSWER, FrameKind.ERROR, FrameKind.CANCEL):
            return super().max_bytes(kind, number)
        if kind is FrameKind.ANSWER:
            return answer_bytes(pending.num_texts, hello.dimensions)
        return MAX_JSON_BYTES if kind is FrameKind.ERROR else 0

    def frame_received(self, received: Frame) -> None:
        """Take what the engine says of itself, or give its reply to who waits for it."""
        kind, number, payload = received
        if self.hello is None:
            hello = read_hello(payload)
            self._greet(self, hello)
            self.hello = hello
        elif kind is FrameKind.STATE:
            self.state, self.heard = read_state(payload), time.monotonic()
        else:
            self._settle(kind, number, payload, self.hello.dimensions)

    def _settle(self, kind: FrameKind, number: int, payload: bytearray, dimensions: int) -> None:
        pending = self._pending[number]
        future, num_texts = pending.future, pending.num_texts
        outcome: BatchedVectors | E5Error | None = None
        if kind is FrameKind.ANSWER:
            outcome = read_answer(payload, num_texts, dimensions)
        elif kind is FrameKind.ERROR:
            outcome = read_engine_error(payload, num_texts)
        elif not future.cancelled():
            raise FrameError("a CANCEL of a request that was not given up")
        del self._pending[number]
        self.own_tokens -= pending.num_tokens
        if future.cancelled():
            return
        if isinstance(outcome, BatchedVectors):
            future.set_result(outcome)
        elif outcome is not None:
            future.set_exception(outcome)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Raise ConnectionEndedError in all who wait for a reply."""
        level = logging.WARNING if self._pending else logging.INFO
        log = "the connection to %s has ended, with %d requests unanswered"
        logger.log(level, log, self._peer, len(self._pending))
        self.ended.set()
        self._leave(self)
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(ConnectionEndedError())
        self._pending.clear()
