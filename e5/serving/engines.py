"""The engines of this machine, each behind a unix socket, as one queue for a front.

A request goes whole to the engine with the fewest waiting tokens. If the connection to the engine
ends before the answer, the request goes once to another engine; so a request that ends engines ends
two at most. Deadlines are the front's: a request that is cancelled here is cancelled there.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from e5.checkpoint import TOKENIZER
from e5.errors import EngineError, QueueFullError, RequestTooLargeError, ServiceError
from e5.prompt_tokenizer import PromptTokenizer
from e5.serving.engine_connection import ConnectionEndedError, EngineConnection
from e5.serving.engine_queue import BatchedVectors
from e5.serving.frames import EngineHello, FrameError
from e5.tokenizer import TokenIds, Tokenizer

# An engine says every 0.25 s how it is; one that has said nothing for so long is asked last.
MAX_SILENT_SECONDS = 5.0
RECONNECT_SECONDS = 0.1  # between two tries to connect to an engine that is not there
MAX_RECONNECT_SECONDS = 5.0  # to one that was refused
MAY_DIFFER = {"max_batch_tokens"}  # between engines: it depends on the card

NO_ENGINE = "no engine can compute now; try again in a moment."
TWO_ENDED = "two engines ended while they computed this request; it is not sent to a third."


@dataclass(frozen=True)
class EnginesModel:
    """What the engines serve, with the tokenizer of this process. A `ServedModel`."""

    name: str
    dimensions: int
    max_length: int
    max_batch_tokens: int
    prompt_tokenizer: PromptTokenizer


class Engines:
    """The engines behind some sockets. An `EngineQueue` for the event loop that connected it.

    Example, inside a coroutine:
        >>> engines = await Engines.connect([Path("/run/private/engine-0")])
        >>> service = Service(engines.model(Path("weights/e5-mini")), engines)
    """

    def __init__(
        self, paths: Sequence[Path], *, silent_seconds: float = MAX_SILENT_SECONDS
    ) -> None:
        """Take the sockets' paths; `connect` is the usual way."""
        self._paths, self._silent_seconds = paths, silent_seconds
        self._connections: dict[Path, EngineConnection] = {}
        self._hello: asyncio.Future[EngineHello] = asyncio.get_running_loop().create_future()
        self._turns = count()
        self._tasks = [asyncio.create_task(self._keep_connected(path)) for path in paths]

    @classmethod
    async def connect(cls, paths: Sequence[Path]) -> "Engines":
        """Wait until one of the engines says what it serves; the others may come later."""
        engines = cls(paths)
        try:
            await asyncio.shield(engines._hello)
        except asyncio.CancelledError:
            await engines.close()
            raise
        return engines

    @property
    def hello(self) -> EngineHello:
        """What the first engine said; engines that say anything else are refused."""
        return self._hello.result()

    def model(self, weights: Path) -> EnginesModel:
        """What the engines serve, with the tokenizer of a checkpoint's folder.

        Raises:
            TokenizerError: if it cannot be read, or is not the engines' own.
        """
        hello = self.hello
        tokenizer = Tokenizer(weights / TOKENIZER, max_length=hello.max_length)
        if tokenizer.sha256 != hello.tokenizer_sha256:
            raise tokenizer.error("it is not the tokenizer that the engines have loaded")
        return EnginesModel(
            name=hello.name,
            dimensions=hello.dimensions,
            max_length=hello.max_length,
            max_batch_tokens=hello.max_batch_tokens,
            prompt_tokenizer=PromptTokenizer(tokenizer, hello.prompts),
        )

    @property
    def healthy(self) -> bool:
        """Whether one of the engines is connected, works, and says so."""
        return any(self._is_healthy(each) for each in self._connections.values())

    @property
    def waiting_tokens(self) -> int:
        """The number of tokens that wait for all connected engines, as they said last."""
        return sum(each.state.waiting_tokens for each in self._connections.values())

    @property
    def max_queue_tokens(self) -> int:
        """The number of tokens that may wait for all engines; a request goes to one of them."""
        return len(self._paths) * self.hello.max_queue_tokens

    @property
    def cache_bytes(self) -> int:
        """The number of bytes that the caches of all connected engines take, as they said last."""
        return sum(each.state.cache_bytes for each in self._connections.values())

    def check_capacity(self, num_tokens: int) -> None:
        """See `EngineQueue.check_capacity`; compared with the queue of the engine to be asked."""
        self._check_size(num_tokens)
        waiting, limit = self._best().state.waiting_tokens, self.hello.max_queue_tokens
        if waiting + num_tokens > limit:
            raise QueueFullError(waiting, num_tokens, limit)

    async def embed(self, sequences: Sequence[TokenIds]) -> BatchedVectors:
        """Ask one engine, and another one if the connection to it ends.

        Raises:
            ServiceError: if no engine is there.
            EngineError: if two engines ended before they answered.
            E5Error: as `EngineQueue.embed`.
        """
        self._check_size(sum(map(len, sequences)))
        for _ in range(2):
            engine = self._best()
            engine.turn = next(self._turns)
            with suppress(ConnectionEndedError):  # the next best is another one
                return await engine.ask(sequences)
        raise EngineError(TWO_ENDED)

    async def close(self) -> None:
        """Close the connections; requests that wait fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check_size(self, num_tokens: int) -> None:
        limit = self.hello.max_queue_tokens
        if num_tokens > limit:
            raise RequestTooLargeError(num_tokens, limit)

    def _best(self) -> EngineConnection:
        """The engine with the fewest waiting tokens; of several, the one asked longest ago."""
        if not self._connections:
            raise ServiceError(NO_ENGINE, cause="unreachable")
        return min(
            self._connections.values(),
            key=lambda each: (
                not self._is_healthy(each),
                each.own_tokens + each.state.waiting_tokens,
                each.turn,
            ),
        )

    def _is_healthy(self, connection: EngineConnection) -> bool:
        heard = time.monotonic() - connection.heard < self._silent_seconds
        return heard and connection.state.healthy

    async def _keep_connected(self, path: Path) -> None:
        """Connect to an engine, and again whenever it is not there."""
        loop, pause = asyncio.get_running_loop(), RECONNECT_SECONDS
        while True:
            try:
                _, connection = await loop.create_unix_connection(
                    lambda: EngineConnection(path, self._greet, self._leave), str(path)
                )
            except OSError:  # it is not there yet, or restarts
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await connection.ended.wait()
            finally:
                connection.transport.abort()
                await connection.ended.wait()
            was_refused = connection.hello is None  # the log says each time why
            pause = min(2 * pause, MAX_RECONNECT_SECONDS) if was_refused else RECONNECT_SECONDS
            await asyncio.sleep(pause)

    def _greet(self, connection: EngineConnection, hello: EngineHello) -> None:
        """Take an engine that has said what it serves; FrameError if its answers would differ."""
        if not self._hello.done():
            self._hello.set_result(hello)
        first, compared = self.hello, EngineHello.model_fields.keys() - MAY_DIFFER
        differing = [name for name in compared if getattr(hello, name) != getattr(first, name)]
        if differing:
            found = f"it serves {hello.name}, and the first engine {first.name}"
            raise FrameError(f"a HELLO that differs in {', '.join(sorted(differing))} ({found})")
        self._connections[connection.path] = connection

    def _leave(self, connection: EngineConnection) -> None:
        """Ask an engine no more, because the connection to it has ended."""
        if self._connections.get(connection.path) is connection:
            del self._connections[connection.path]
