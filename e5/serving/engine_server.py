"""The process of one engine: loads the model, and answers fronts through a unix socket.

    python -m e5.serving.engine_server --socket /run/private/engine-0

The settings are those of the environment. It listens once the model has passed its self-check, in a
folder that only its user can enter. It ends when its standard input does, so that it does not
outlive a parent that was killed; on SIGTERM it answers what it has taken, and then ends.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from e5.errors import E5Error, EngineError, FileError
from e5.serving.engine_queue import ENGINE_FAILED, BatchedVectors, EngineQueue
from e5.serving.frames import (
    EngineHello,
    EngineState,
    Frame,
    FrameKind,
    FrameProtocol,
    answer_frame,
    error_frame,
    frame,
    hello_frame,
    max_ask_bytes,
    read_ask,
    state_frame,
)
from e5.serving.lifeline import tie_to_parent
from e5.serving.service import ServedModel
from e5.settings import Settings

logger = logging.getLogger("e5.serving.engine_server")  # also where it is the main module

STATE_SECONDS = 0.25
MAX_UNREAD_BYTES = 1 << 26
LAST_ANSWERS_SECONDS = 5.0
REFUSED_TO_START = 2  # the exit status where another try would find the same error


class EngineServer:
    """An engine's queue behind a unix socket."""

    def __init__(
        self,
        model: ServedModel,
        queue: EngineQueue,
        *,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        last_answers_seconds: float = LAST_ANSWERS_SECONDS,
    ) -> None:
        """Have the queue compute what fronts ask; `start` begins to listen.

        Args:
            model: what the queue computes with.
            queue: the queue of the engine.
            max_unread_bytes: the number of bytes of unread answers after which no more requests of
                a front are taken.
            last_answers_seconds: when it ends, how long fronts may take to read their last
                answers; a front that was stopped reads none.
        """
        tokenizer = model.prompt_tokenizer.tokenizer
        self.hello = EngineHello(
            name=model.name,
            tokenizer_sha256=tokenizer.sha256,
            prompts=model.prompt_tokenizer.prompts,
            dimensions=model.dimensions,
            max_length=model.max_length,
            max_batch_tokens=model.max_batch_tokens,
            max_queue_tokens=queue.max_queue_tokens,
        )
        self.vocab_size = tokenizer.vocab_size
        self.queue = queue
        self.max_unread_bytes = max_unread_bytes
        self._last_answers_seconds = last_answers_seconds
        self.is_ending = False
        self.connections: set[_FrontConnection] = set()
        self._changed = asyncio.Event()

    @property
    def state(self) -> EngineState:
        """Its state; an engine that ends says that it is not healthy, so that nobody asks it."""
        healthy = self.queue.healthy and not self.is_ending
        return EngineState(healthy, self.queue.waiting_tokens, self.queue.cache_bytes)

    async def start(self, path: Path) -> None:
        """Listen at a path in a private folder.

        Raises:
            FileError: if others can enter the folder, or the path cannot be used.
        """
        try:
            mode = path.parent.stat().st_mode
            if mode & 0o077:
                remedy = "make it private (chmod 700)"
                raise FileError(path.parent, f"the folder has the mode {mode & 0o777:o}", remedy)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(partial(_FrontConnection, self), path)
        except OSError as error:
            remedy = "choose a short path in a folder of your own"
            raise FileError(path, f"no socket can be made there ({error})", remedy) from error
        self._path = path
        self._reporting = loop.create_task(self._report_states())

    async def stop(self) -> None:
        """Answer what was taken, and close all connections.

        What arrives from now on is not taken; fronts ask another engine when they are closed.
        """
        self.is_ending = True
        self._server.close()
        self._path.unlink(missing_ok=True)
        for connection in self.connections:
            connection.send(state_frame(self.state))
        await self._until(lambda: not any(each.tasks for each in self.connections))
        self._reporting.cancel()
        for connection in self.connections:
            connection.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._last_answers_seconds):
                await self._until(lambda: not self.connections)
        for connection in self.connections:
            connection.transport.abort()

    def changed(self) -> None:
        """Note that a request was answered or a connection has ended."""
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _report_states(self) -> None:
        """Send the engine's state to every front several times a second."""
        while True:
            await asyncio.sleep(STATE_SECONDS)
            report = state_frame(self.state)
            for connection in self.connections:
                if not connection.is_unread:
                    connection.send(report)


class _FrontConnection(FrameProtocol):
    """The connection to one front, and those of its requests that are being computed."""

    def __init__(self, server: EngineServer) -> None:
        super().__init__("a front")
        self._server = server
        self._max_ask_bytes = max_ask_bytes(server.hello.max_queue_tokens)
        self.tasks: dict[int, asyncio.Task[BatchedVectors]] = {}
        self.is_unread = False  # the front does not read what it is sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(self._server.max_unread_bytes)
        self._server.connections.add(self)
        self.send(hello_frame(self._server.hello))
        self.send(state_frame(self._server.state))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Cancel the front's requests."""
        self._server.connections.discard(self)
        self._server.changed()
        for task in self.tasks.values():
            task.cancel()

    def pause_writing(self) -> None:
        """Read no more requests while the answers are not read."""
        self.is_unread = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read requests again."""
        self.is_unread = False
        self.transport.resume_reading()

    def max_bytes(self, kind: FrameKind, number: int) -> int:
        """See `FrameReader`."""
        if kind is FrameKind.CANCEL:
            return 0
        if kind is FrameKind.ASK and number not in self.tasks:
            return self._max_ask_bytes
        return super().max_bytes(kind, number)

    def data_received(self, data: bytes) -> None:
        """Take requests, unless the engine is ending."""
        if not self._server.is_ending:
            super().data_received(data)

    def frame_received(self, received: Frame) -> None:
        """Begin a request, or cancel one."""
        number = received.number
        if received.kind is FrameKind.CANCEL:
            if number in self.tasks:  # else its reply is on the way
                self.tasks[number].cancel()
            return
        hello = self._server.hello
        sequences = read_ask(
            received.payload, max_length=hello.max_length, vocab_size=self._server.vocab_size
        )
        task = asyncio.get_running_loop().create_task(self._server.queue.embed(sequences))
        self.tasks[number] = task
        task.add_done_callback(partial(self._reply, number))

    def end(self) -> None:
        """Say that nothing follows; the front closes the connection once it has read all."""
        if not self.transport.is_closing():
            self.transport.write_eof()

    def _reply(self, number: int, task: asyncio.Task[BatchedVectors]) -> None:
        del self.tasks[number]
        self._server.changed()
        if task.cancelled():
            self.send(frame(FrameKind.CANCEL, number))
        elif (error := task.exception()) is None:
            self.send(answer_frame(number, task.result()))
        elif isinstance(error, E5Error):
            self.send(error_frame(number, error))
        else:
            logger.error("a request failed", exc_info=error)
            self.send(error_frame(number, EngineError(ENGINE_FAILED)))


def engine_main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", metavar="PATH", type=Path, required=True)
    options = parser.parse_args(arguments)
    tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent says when to end
    logging.basicConfig(
        level=logging.INFO, format=f"%(levelname)s {options.socket.stem} %(name)s: %(message)s"
    )
    import uvloop

    try:
        uvloop.run(_serve(Settings.from_env(), options.socket))
    except E5Error as error:
        logger.critical("%s", error)
        return REFUSED_TO_START
    return 0


async def _serve(settings: Settings, path: Path) -> None:
    from e5.embedder import Embedder  # they bring torch
    from e5.serving.batcher import Batcher

    embedder = Embedder.load(settings)
    batcher = Batcher(
        embedder,
        max_queue_tokens=settings.max_queue_tokens,
        cache_bytes=settings.cache_bytes,
    )
    server = EngineServer(embedder, batcher)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking for garbage in it would stop all requests for 0.1 s
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    await server.start(path)
    logger.info("the engine listens at %s", path)
    await is_over.wait()
    await server.stop()


if __name__ == "__main__":
    sys.exit(engine_main())
