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

MAX_FOLDER = 80  # characters; the whole path of a socket may have 107


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, for sockets and counters; it is removed at the end.

    Raises:
        FileError: if there is no place for one.
    """
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for place in filter(None, places):
        if len(place) > MAX_FOLDER:
            continue
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="e5-gateway-", dir=place))
            break
    else:
        raise FileError(Path("/tmp"), "no folder can be made there", "free some space")
    try:
        # What tidies up /tmp leaves folders alone that somebody has locked.
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder
        os.close(descriptor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reserve_port(bound: socket.socket) -> None:
    """Let sockets with SO_REUSEPORT share the port of one that does not listen, and no others.

    Another gateway, which tries the port without that, finds it in use from now on.
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
        settings: those of each engine.
        engines: see `divide_machine`.
        fronts: see `divide_machine`.
        front_command: see `Processes`; it gets the private folder.
        announce: see `Processes.run`.
        limits: see `Processes`.

    Raises:
        InputError: as `divide_machine`.
        WeightsError: as `must_load_one_by_one`.
        EngineError: if a process ends again and again before it can answer, and has not said why.
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
