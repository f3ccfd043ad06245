"""Ports for servers that tests start, each given once on this machine at a time."""

import socket
from contextlib import suppress
from pathlib import Path

# The kernel gives these to whoever asks for any port, and to outgoing connections.
EPHEMERAL = range(*map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()))
FIRST, LAST = 20_000, 65_535
PORTS = [port for port in range(FIRST, LAST) if port not in EPHEMERAL] or range(FIRST, LAST)


def free_port() -> int:
    """A port of this process until it ends; nothing listens there.

    It is no ephemeral port. Other test processes cannot get it: each holds the ports that it was
    given by a name that one process at a time can have, and the kernel forgets the name with it.
    """
    for port in PORTS:
        claim = socket.socket(socket.AF_UNIX)
        with suppress(OSError), socket.socket() as trial:
            claim.bind(f"\0e5-tests-port-{port}")
            claim.detach()  # open as long as this process
            trial.bind(("127.0.0.1", port))
            return port
        claim.close()
    raise AssertionError("every port is in use")
