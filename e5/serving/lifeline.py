"""What ties a child process to the parent that started it. Needs the standard library alone.

The child's standard input is one end of a pair of sockets. The child sees the parent's end close,
however the parent died, and ends too. The parent sees a pulse: a byte from time to time.
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

PULSE_SECONDS = 0.25
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def tie_to_parent(folder: Path | None = None) -> None:
    """From now on, end at once when the parent has ended, in whatever state both are.

    Args:
        folder: a folder to remove then, because the parent no longer can.
    """
    with suppress(OSError, AttributeError):  # of another system than Linux
        # A child that is stopped does not see that its input ends: the kernel wakes it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT)

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1 << 12):
                pass
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, name="e5-lifeline", daemon=True).start()


@dataclass(frozen=True)
class FrontConfig:
    """What a front gets from its parent, as JSON on its command line.

    Attributes:
        name: of the process, for its log.
        folder: the private folder that all processes share.
        engines: the paths of all engines' sockets.
        listener_descriptor: the file descriptor of `listener`.
    """

    name: str
    folder: str
    engines: list[str]
    listener_descriptor: int

    @classmethod
    def from_json(cls, text: str) -> "FrontConfig":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """One argument of a command line."""
        return json.dumps(asdict(self))

    def tie_to_parent(self) -> None:
        """See `tie_to_parent`."""
        tie_to_parent(Path(self.folder))

    @cached_property
    def listener(self) -> socket.socket:
        """The socket on which it listens once it can answer."""
        return socket.socket(fileno=self.listener_descriptor)

    async def pulse(self) -> None:
        """Show the parent, until this is cancelled, that the event loop runs."""
        with socket.socket(fileno=os.dup(0)) as lifeline:
            while True:
                # A parent that is stopped reads nothing; what it has not read yet says enough.
                with suppress(OSError):
                    lifeline.send(b".", socket.MSG_DONTWAIT)
                await asyncio.sleep(PULSE_SECONDS)
