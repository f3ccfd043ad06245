"""One process that the parent starts, an engine or a front, and what the parent knows of it."""

import asyncio
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

ChildKind: TypeAlias = Literal["engine", "front"]
# Why a process ended: by itself or by others ("ended"), or because its parent killed it.
EndCause: TypeAlias = Literal["ended", "silent", "unhealthy", "refused"]


class Child:
    """A process that may be started again and again.

    Attributes:
        kind: whether it is an engine or a front.
        number: its number among those of its kind, from 1 on.
        is_ready: whether it can answer.
        missed_ticks: how often the parent looked since the process last showed that it is well.
        cause: why its last process ended, or will end.
        is_unhealthy: whether an engine said last that it does not work.
        waiting_tokens: the number of tokens that wait for an engine, as it said last.
        cache_bytes: the number of bytes that an engine's kept vectors take, as it said last.
    """

    def __init__(self, kind: ChildKind, number: int, environ: Mapping[str, str]) -> None:
        """Describe a child; `start` starts it, with the environment variables `environ`."""
        self.kind, self.number = kind, number
        self.is_ready = asyncio.Event()
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._reset()

    def _reset(self) -> None:
        self.is_ready.clear()
        self.missed_ticks = self.waiting_tokens = self.cache_bytes = 0
        self.is_unhealthy = False
        self.cause: EndCause = "ended"

    @property
    def name(self) -> str:
        """Its kind and its number, such as `engine-1`."""
        return f"{self.kind}-{self.number}"

    @property
    def process_id(self) -> int:
        """The id of its last process; 0 if it was never started."""
        return 0 if self._process is None else self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status of its last process, negative after a signal; None while it runs."""
        return 0 if self._process is None else self._process.returncode

    @property
    def ending(self) -> str:
        """How its last process ended, in words for a log."""
        status = self.exit_status or 0
        return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"

    async def start(self, command: Sequence[str], *, listener: socket.socket | None = None) -> None:
        """Start a process; it inherits `listener`."""
        self._reset()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                env=self._environ,
                stdin=theirs.fileno(),
                pass_fds=[] if listener is None else [listener.fileno()],
                start_new_session=True,  # Ctrl-C in a terminal is for the parent alone
            )
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._take_pulse, ours)

    def _take_pulse(self, lifeline: socket.socket) -> None:
        try:
            if lifeline.recv(1 << 12):
                self.missed_ticks = 0
                self.is_ready.set()
                return
        except BlockingIOError:
            return
        except OSError:  # the process ended without reading something
            pass
        asyncio.get_running_loop().remove_reader(lifeline)
        lifeline.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        with suppress(ProcessLookupError):
            if self._process is not None:
                self._process.send_signal(number)

    def kill(self, cause: EndCause) -> None:
        """End it at once."""
        self.cause = cause
        self.signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Wait until its last process has ended."""
        if self._process is not None:
            await self._process.wait()
        self.is_ready.clear()
        self.waiting_tokens = self.cache_bytes = 0

    async def until_ready(self) -> bool:
        """Wait until it can answer, or has ended; returns whether it can."""
        waits = [asyncio.create_task(each) for each in (self.is_ready.wait(), self.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return self.is_ready.is_set()
        finally:
            for each in waits:
                each.cancel()
