"""Engine servers in this process, and a client that sends them any bytes."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from watched import WatchedEngine

from e5.serving.batcher import Batcher
from e5.serving.engine_server import EngineServer
from e5.serving.engines import Engines
from e5.serving.frames import EngineHello, Frame, FrameKind, FrameReader, Pieces, hello_frame

# Engines and fronts run on uvloop; the other loop differs in how connections end.
LOOPS = pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
FRAMES_LOG = "e5.serving.frames"  # says what was no frame
Story = Callable[[], Awaitable[None]]


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="e5-") as folder:
        yield Path(folder)


def run_on(loop: str, story: Story) -> None:
    """Run a test's coroutine function on `asyncio`'s own event loop or `uvloop`'s."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


def server_of(
    engine: WatchedEngine, *, max_queue_tokens: int = 1_000_000, **options: float
) -> EngineServer:
    """A server of an engine that can be watched."""
    batcher = Batcher(engine.embedder, max_queue_tokens=max_queue_tokens)
    return EngineServer(engine.embedder, batcher, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(*servers: "EngineServer | FakeEngine") -> AsyncIterator[list[Path]]:
    """The paths of the sockets at which the servers listen meanwhile."""
    with private_folder() as folder:
        paths = [folder / str(number) for number in range(len(servers))]
        for server, path in zip(servers, paths, strict=True):
            await server.start(path)
        try:
            yield paths
        finally:
            for server in servers:
                await server.stop()


@asynccontextmanager
async def connected(paths: list[Path], **options: float) -> AsyncIterator[Engines]:
    """The engines behind these sockets, once all of them are connected."""
    engines = Engines(paths, **options)
    while len(engines._connections) < len(paths):
        await asyncio.sleep(0.001)
    try:
        yield engines
    finally:
        await engines.close()


class RawFront:
    """A front that sends whatever a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = FrameReader(lambda *_: 1 << 30)
        self._received: list[Frame] = []
        self._is_unwell = False

    @classmethod
    async def connect(cls, path: Path) -> "RawFront":
        """Connect, and read the HELLO and the first STATE."""
        front = cls(*await asyncio.open_unix_connection(path))
        hello = await front.read()
        assert hello is not None
        assert hello.kind is FrameKind.HELLO
        return front

    def send(self, *frames: Pieces | bytes) -> None:
        """Send frames, or any bytes."""
        self.writer.write(
            b"".join(each if isinstance(each, bytes) else b"".join(each) for each in frames)
        )

    async def read(self) -> Frame | None:
        """The next frame that is no STATE, or the first that says that the engine is not healthy.

        None once the connection has ended.
        """
        while True:
            while self._received:
                frame = self._received.pop(0)
                if frame.kind is not FrameKind.STATE:
                    return frame
                if not frame.payload[0] and not self._is_unwell:
                    self._is_unwell = True
                    return frame
            try:
                data = await self.reader.read(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._received += self._frames.feed(data)

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class FakeEngine:
    """A socket that says a HELLO, and for each ASK the bytes that a test says.

    Attributes:
        asked: the numbers of the requests so far.
        given_up: the numbers of those that were given up.
        connections: how many there were.
    """

    def __init__(self, hello: EngineHello, reply: Callable[[int], bytes]) -> None:
        self.hello, self.reply = hello, reply
        self.asked: list[int] = []
        self.given_up: list[int] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._handlers: list[asyncio.Task[Any] | None] = []

    async def start(self, path: Path) -> None:
        """Listen at a path."""
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def stop(self) -> None:
        """Listen no more, and end all connections."""
        self._server.close()
        self.hang_up()
        closing = [writer.wait_closed() for writer in self._writers]
        await asyncio.gather(*filter(None, self._handlers), *closing, return_exceptions=True)

    def hang_up(self) -> None:
        """Close all connections, once what was written is sent."""
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._handlers.append(asyncio.current_task())
        frames = FrameReader(lambda *_: 1 << 30)
        self._writers.append(writer)
        writer.write(b"".join(hello_frame(self.hello)))
        while data := await reader.read(1 << 16):
            for received in frames.feed(data):
                if received.kind is FrameKind.ASK:
                    self.asked.append(received.number)
                    writer.write(self.reply(received.number))
                else:
                    self.given_up.append(received.number)
        writer.close()
