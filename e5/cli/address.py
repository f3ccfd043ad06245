"""Where a server listens: HOST and PORT of the environment, tried before anything is loaded.

Cog's server and the gateway would read them in different ways; here they mean the same for both.
"""

import errno
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any, TypeAlias

from e5.errors import InputError, shortened

BACKLOG = 2048  # connections that wait to be taken, as many as uvicorn allows
LOOKUP_SECONDS = 1.0
HOST_REMEDY = (
    "use an address or a name of this machine, without scheme and port, "
    "such as 127.0.0.1, 0.0.0.0 or ::"
)
# The family of an address, and the address as sockets take it.
_Address: TypeAlias = tuple[socket.AddressFamily, Any]


def bound_socket(
    environ: Mapping[str, str], *, default_port: int, lookup_seconds: float = LOOKUP_SECONDS
) -> socket.socket:
    """A socket at the address that HOST and PORT name, which does not listen yet.

    Without a variable, or if it is blank, it is 127.0.0.1 or `default_port`. A name stands for its
    first IPv4 address, or for its first IPv6 address if it has no other. A name that is not
    resolved within `lookup_seconds` is refused.

    Raises:
        InputError: for a HOST or PORT that cannot be listened on, whatever the reason.
    """
    host = environ.get("HOST", "").strip() or "127.0.0.1"
    given_port = environ.get("PORT", "").strip()
    port = port_number(given_port) if given_port else default_port
    family, address = _find_address(host, port, lookup_seconds)
    try:
        bound = socket.socket(family)
    except OSError as error:  # a machine without IPv6
        raise _refusal(error, host, address, given_port) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _refusal(error, host, address, given_port) from error
    return bound


def begin_to_listen(bound: socket.socket) -> None:
    """Listen; InputError if another process began to listen there since `bound_socket`.

    The kernel lets several sockets have one address until the first of them listens.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        address = bound.getsockname()
        raise _refusal(error, str(address[0]), address, str(address[1])) from error


def url_host(bound: socket.socket) -> str:
    """The address of a socket as a URL and Cog's server want it: IPv6 in brackets.

    Example:
        >>> with bound_socket({"HOST": "localhost"}, default_port=0) as bound:
        ...     url_host(bound)
        '127.0.0.1'
    """
    host, _, *rest = bound.getsockname()
    if bound.family == socket.AF_INET:
        return str(host)
    scope = rest[1]  # the number of the interface, of an address that only counts there
    return f"[{host.partition('%')[0]}{f'%{scope}' if scope else ''}]"


def port_number(text: str) -> int:
    """The number of a port.

    Raises:
        InputError: for a text that is not one.
    """
    if not (text.isdecimal() and len(text) < 10 and 0 < int(text) < 2**16):
        raise InputError("PORT", repr(shortened(text)), "use 1 to 65535")
    return int(text)


def _find_address(host: str, port: int, lookup_seconds: float) -> _Address:
    if host[0] + host[-1] == "[]" and ":" in host:
        host = host[1:-1]
    found: list[_Address] = []

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError):  # no such name; a name that can be none
            return
        found.extend((family, address) for family, _, _, _, address in answers)

    # Name servers that do not answer are waited for much longer.
    thread = threading.Thread(target=look_up, name="e5-lookup", daemon=True)
    thread.start()
    thread.join(lookup_seconds)
    if not found:
        received = "which is neither an address nor a name that can be resolved"
        raise InputError("HOST", f"{shortened(host)!r}, {received}", HOST_REMEDY)
    return next((each for each in found if each[0] == socket.AF_INET), found[0])


def _refusal(error: OSError, host: str, address: Any, given_port: str) -> InputError:
    """The sentence about a HOST or a PORT that cannot be listened on."""
    port = given_port or f"nothing, so that it is {address[1]}"
    if error.errno == errno.EADDRINUSE:
        received = f"{port}, where something listens already (at {address[0]})"
        return InputError("PORT", received, "use another port")
    if error.errno in (errno.EACCES, errno.EPERM):
        received = f"{port}, on which this user may not listen"
        return InputError("PORT", received, "use 1024 or more, or permit it (CAP_NET_BIND_SERVICE)")
    name = repr(shortened(host))
    if address[0] != host.strip("[]"):
        name += f" ({address[0]})"
    reason = "which no interface of this machine has"
    if error.errno != errno.EADDRNOTAVAIL:
        reason = f"which cannot be listened on ({os.strerror(error.errno or 0)})"
    return InputError("HOST", f"{name}, {reason}", HOST_REMEDY)
