"""The parent of engines and fronts: starts them, watches them, starts them again, and ends them.

It loads neither the model nor an HTTP server, so there is little in it that could fail.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from e5.errors import EngineError
from e5.serving.child import Child
from e5.serving.frames import (
    MAX_JSON_BYTES,
    STATE,
    Frame,
    FrameKind,
    FrameProtocol,
    read_hello,
    read_state,
)
from e5.serving.lifeline import FrontConfig
from e5.serving.process_metrics import ProcessMetrics

logger = logging.getLogger(__name__)

PACKAGE_FOLDER = Path(__file__).parents[2]  # where children find this package
ENGINE_COMMAND = (sys.executable, "-m", "e5.serving.engine_server")
# With these a child ends that does not start and has written why.
STATUSES_WITH_REASON = (1, 2)


@dataclass(frozen=True)
class ProcessLimits:
    """How long the parent waits for its children.

    Attributes:
        tick_seconds: the pause between two looks at the children.
        silent_ticks: the number of looks after which a child is killed that shows no sign of life,
            or says that it is not well. Seconds would go on while the machine sleeps.
        loading_ticks: the same, for a child that was started and cannot answer yet.
        ending_seconds: the time in which an engine must end once all fronts have ended.
        first_pause: seconds before a child is started again.
        longest_pause: the pause doubles up to this, until a child has lived for longer than it.
        failed_starts: all end if a child ends so often in a row before it can answer.
    """

    tick_seconds: float = 0.25
    silent_ticks: int = 40
    loading_ticks: int = 7200
    ending_seconds: float = 10.0
    first_pause: float = 0.5
    longest_pause: float = 30.0
    failed_starts: int = 8


class Processes:
    """The engines and fronts of one gateway."""

    def __init__(
        self,
        folder: Path,
        bound: socket.socket,
        *,
        engines: Sequence[Mapping[str, str]],
        num_fronts: int,
        front_command: Sequence[str],
        engine_command: Sequence[str] = ENGINE_COMMAND,
        one_by_one: bool = False,
        limits: ProcessLimits = ProcessLimits(),
    ) -> None:
        """Describe the processes; `run` starts them.

        Args:
            folder: a private folder, which they share.
            bound: a socket that has the address on which the fronts listen, and does not listen.
            engines: for each engine, the environment variables in which it differs from this
                process.
            num_fronts: the number of fronts.
            front_command: the command line of a front, without `--front` and its `FrontConfig`.
            engine_command: the command line of an engine, without `--socket` and its path.
            one_by_one: whether no two engines may load at the same time.
            limits: how long the parent waits for its children.
        """
        self._folder, self._bound, self._limits = folder, bound, limits
        self._front_command, self._engine_command = front_command, engine_command
        self._metrics = ProcessMetrics(folder)
        # Modules in the caller's folder, such as a json.py, are not imported.
        paths = filter(None, [str(PACKAGE_FOLDER), os.environ.get("PYTHONPATH")])
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        self._engines = [
            Child("engine", i, {**environ, **own}) for i, own in enumerate(engines, start=1)
        ]
        self._fronts = [Child("front", i, environ) for i in range(1, num_fronts + 1)]
        self._children = [*self._engines, *self._fronts]
        self._loading = asyncio.Semaphore(1 if one_by_one else len(engines))
        self._served: str | None = None  # the model, as the first engine named it
        self._must_end = asyncio.Event()
        self._is_forced = False

    async def run(self, announce: Callable[[str], None]) -> int:
        """Run all processes until SIGTERM or SIGINT, and return the exit status.

        The first signal lets the fronts answer what they have taken, and then ends the engines; a
        second one ends all at once.

        Args:
            announce: called with the name of the model when all processes can answer.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        ticking = loop.create_task(self._tick())
        ending = loop.create_task(self._must_end.wait())
        keeping = [loop.create_task(self._keep(child)) for child in self._children]
        announcing = loop.create_task(self._announce(announce))
        await asyncio.wait([ending, ticking, *keeping], return_when=asyncio.FIRST_COMPLETED)
        gave_up = [task for task in (ticking, *keeping) if task.done()]
        for task in (ending, announcing, *keeping):
            task.cancel()
        await asyncio.gather(ending, announcing, *keeping, return_exceptions=True)
        is_clean = await self._end()
        ticking.cancel()
        for task in gave_up:
            task.result()  # raises why, if nobody has written it yet
        return 0 if is_clean and not gave_up else 1

    async def _announce(self, announce: Callable[[str], None]) -> None:
        for child in self._children:
            await child.is_ready.wait()
        announce(str(self._served))

    async def _keep(self, child: Child) -> None:
        """Start a child again and again; return when it cannot start and has written why.

        Raises:
            EngineError: when it cannot start, and has not written why.
        """
        clock, limits = asyncio.get_running_loop().time, self._limits
        num_failed, pause, was_ever_ready = 0, limits.first_pause, False
        while True:
            started = clock()
            async with self._loading if child.kind == "engine" else nullcontext():
                try:
                    was_ready = await self._start(child)
                except OSError as error:  # the system has no room for a process now
                    logger.error("%s cannot be started (%s)", child.name, error)
                    was_ready = False
            was_ever_ready |= was_ready
            await child.wait()
            self._metrics.forget(child.name)
            num_failed = 0 if was_ready else num_failed + 1
            if not was_ready and (not was_ever_ready or num_failed == limits.failed_starts):
                if child.cause == "ended" and child.exit_status in STATUSES_WITH_REASON:
                    return
                sentence = f"{child.name} ended {child.ending} before it could answer; its log"
                sentence += " may say why, and SIGKILL often means that memory was short."
                if child.cause == "refused":
                    sentence = f"{child.name} serves another model than {self._served}, which the "
                    sentence += "others serve; start all of them again."
                raise EngineError(sentence)
            if clock() - started > limits.longest_pause:
                pause = limits.first_pause
            log = "%s ended %s (%s); it is started again in %g s"
            logger.error(log, child.name, child.ending, child.cause, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, limits.longest_pause)
            self._metrics.restarts.labels(child.kind, child.cause).inc()

    async def _start(self, child: Child) -> bool:
        """Start a child, and wait until it can answer or has ended; returns whether it can."""
        loop = asyncio.get_running_loop()
        if child.kind == "engine":
            path = self._socket_of(child)
            await child.start([*self._engine_command, "--socket", str(path)])
            watching = loop.create_task(self._watch(child, path))
            loop.create_task(child.wait()).add_done_callback(lambda _: watching.cancel())
        else:
            with socket.socket(self._bound.family) as listener:
                for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                    listener.setsockopt(socket.SOL_SOCKET, option, 1)
                listener.bind(self._bound.getsockname())
                listener.set_inheritable(True)
                engines = [str(self._socket_of(engine)) for engine in self._engines]
                config = FrontConfig(child.name, str(self._folder), engines, listener.fileno())
                command = [*self._front_command, "--front", config.to_json()]
                await child.start(command, listener=listener)
        return await child.until_ready()

    def _socket_of(self, engine: Child) -> Path:
        return self._folder / f"{engine.name}.sock"

    async def _watch(self, engine: Child, path: Path) -> None:
        """Listen to what an engine says of itself, as fronts do, until it has ended."""
        loop = asyncio.get_running_loop()
        while True:
            with suppress(OSError):  # it does not listen yet
                _, watcher = await loop.create_unix_connection(
                    lambda: _Watcher(engine, self._greet), str(path)
                )
                await watcher.has_ended.wait()
            await asyncio.sleep(self._limits.tick_seconds)

    def _greet(self, engine: Child, served: str) -> None:
        """Take an engine that can answer, unless it serves something else than the others."""
        self._served = self._served or served
        if served != self._served:
            engine.kill("refused")
            return
        engine.is_ready.set()

    async def _tick(self) -> None:
        """Kill children that do not show that they are well, and keep the gauges up to date."""
        limits = self._limits
        while True:
            await asyncio.sleep(limits.tick_seconds)
            for child in self._children:
                child.missed_ticks += 1
                most = limits.silent_ticks if child.is_ready.is_set() else limits.loading_ticks
                if child.exit_status is None and child.missed_ticks > most:
                    child.kill("unhealthy" if child.is_unhealthy else "silent")
            for engine in self._engines:
                self._metrics.queue_tokens.labels(engine.number).set(engine.waiting_tokens)
                self._metrics.cache_bytes.labels(engine.number).set(engine.cache_bytes)
            for kind, children in (("engine", self._engines), ("front", self._fronts)):
                num_ready = sum(child.is_ready.is_set() for child in children)
                self._metrics.processes.labels(kind).set(num_ready)

    def end(self) -> None:
        """Do what a signal does: let all end in order; at the second call, end them at once."""
        if self._must_end.is_set():
            self._is_forced = True
            for child in self._children:
                child.kill("ended")
        self._must_end.set()

    async def _end(self) -> bool:
        """End the fronts, then the engines; returns whether every request was answered."""
        serving = [front for front in self._fronts if front.is_ready.is_set()]
        for front in self._fronts:
            front.signal(signal.SIGTERM if front in serving else signal.SIGKILL)
        for front in self._fronts:
            await front.wait()
        for engine in self._engines:
            engine.signal(signal.SIGTERM)
        for engine in self._engines:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.ending_seconds):
                    await engine.wait()
            engine.kill("silent")
            await engine.wait()
        return not self._is_forced and all(front.exit_status == 0 for front in serving)


class _Watcher(FrameProtocol):
    """The parent's connection to an engine."""

    def __init__(self, engine: Child, greet: Callable[[Child, str], None]) -> None:
        super().__init__(engine.name)
        self.has_ended = asyncio.Event()
        self._engine, self._greet = engine, greet

    def max_bytes(self, kind: FrameKind, number: int) -> int:
        """See `FrameReader`."""
        if kind is FrameKind.HELLO:
            return MAX_JSON_BYTES
        return STATE.size if kind is FrameKind.STATE else super().max_bytes(kind, number)

    def frame_received(self, received: Frame) -> None:
        """Take what the engine says of itself."""
        if received.kind is FrameKind.HELLO:
            self._greet(self._engine, read_hello(received.payload).name)
            return
        state = read_state(received.payload)
        self._engine.waiting_tokens = state.waiting_tokens
        self._engine.cache_bytes = state.cache_bytes
        self._engine.is_unhealthy = not state.healthy
        if state.healthy:
            self._engine.missed_ticks = 0

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Let `Processes` connect again."""
        self.has_ended.set()
