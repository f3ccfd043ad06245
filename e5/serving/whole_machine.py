"""One command for a whole machine: its cards and cores, a private folder, and the processes."""

import asyncio
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from e5.errors import FileError
from e5.serving.processes import Processes, ProcessLimits
from e5.serving.shares import divide_machine, must_load_one_by_one
from e5.settings import Settings

MAX_FOLDER = 80  # characters of the parent's path; the path of a socket may have 107


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, for sockets and counters; it is removed at the end.

    Raises:
        FileError: if none can be made.
    """
    parents = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for parent in filter(None, parents):
        if len(parent) > MAX_FOLDER:
            continue
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="e5-gateway-", dir=parent))
            break
    else:
        raise FileError(Path("/tmp"), "no folder can be made there", "free some space")
    try:
        # Services that tidy up /tmp leave locked folders alone.
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder
        os.close(descriptor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reserve_port(bound: socket.socket) -> None:
    """Let only sockets with SO_REUSEPORT have the port of a socket that does not listen.

    Another gateway, which does not set that, finds the port in use from now on.
    """
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def run_processes(
    bound: socket.socket,
    settings: Settings,
    *,
    engines: str | None,
    fronts: str | None,
    front_command: Callable[[Path], Sequence[str]],
    announce: Callable[[str], None],
    limits: ProcessLimits = ProcessLimits(),  # noqa: B008 (it is frozen)
) -> int:
    """Run engines and fronts until SIGTERM or SIGINT, and return the exit status.

    Args:
        bound: see `Processes`. From now on others may listen on its address only as fronts do.
        settings: the settings of each engine.
        engines: see `divide_machine`.
        fronts: see `divide_machine`.
        front_command: see `Processes`; it gets the private folder.
        announce: see `Processes.run`.
        limits: see `Processes`.

    Raises:
        InputError: as `divide_machine`.
        WeightsError: as `must_load_one_by_one`.
        EngineError: if a process cannot start, and has not written why.
    """
    shares = divide_machine(engines, fronts, settings)
    one_by_one = must_load_one_by_one(Path(settings.weights), len(shares.engines))
    reserve_port(bound)

    async def run() -> int:
        processes = Processes(
            folder,
            bound,
            engines=shares.engines,
            num_fronts=shares.num_fronts,
            front_command=front_command(folder),
            one_by_one=one_by_one,
            limits=limits,
        )
        return await processes.run(announce)

    with private_folder() as folder:
        return asyncio.run(run())
