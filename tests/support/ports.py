"""Ports for servers that tests start, each given once on this machine at a time."""

import fcntl
import functools
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

_LINUX = Path("/proc/sys/net/ipv4/ip_local_port_range")
# The kernel gives these to whoever asks for any port, and to outgoing connections.
EPHEMERAL = range(*map(int, _LINUX.read_text().split() if _LINUX.exists() else (49_152, 65_535)))
FIRST, LAST = 20_000, 65_535
PORTS = [port for port in range(FIRST, LAST) if port not in EPHEMERAL] or range(FIRST, LAST)


_given: set[int] = set()


@functools.cache
def _claims() -> int:
    """A file that is open as long as this process, of which a byte can be locked for each port."""
    return os.open(
        f"{tempfile.gettempdir()}/e5-tests-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o666
    )


def free_port() -> int:
    """A port of this process until it ends; nothing listens there.

    It is no ephemeral port. Other test processes cannot get it: each locks a byte of one file for
    each port that it was given, and the kernel forgets these locks with the process.
    """
    for port in PORTS:
        if port in _given:
            continue
        with suppress(OSError), socket.socket() as trial:
            fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _given.add(port)
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is in use")
