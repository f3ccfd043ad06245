"""HOST and PORT mean the same to both servers; what cannot be listened on is named."""

import doctest
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import Run
from ports import free_port
from processes import needs_linux

from e5.cli import address
from e5.cli.address import begin_to_listen, bound_socket, port_number, url_host
from e5.errors import InputError

REMEDY = (
    "use an address or a name of this machine, without scheme and port, "
    "such as 127.0.0.1, 0.0.0.0 or ::."
)
UNRESOLVED = "which is neither an address nor a name that can be resolved"


@contextmanager
def ipv6() -> Iterator[None]:
    """Skips the test where the machine has no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    yield


def refusal(**environ: str) -> str:
    with pytest.raises(InputError) as caught:
        bound_socket(environ, default_port=free_port())
    return str(caught.value)


@pytest.mark.parametrize(
    ("host", "bound_to"),
    [
        (None, "127.0.0.1"),
        ("", "127.0.0.1"),
        (" \n", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        (" 0.0.0.0 ", "0.0.0.0"),
        ("*", "0.0.0.0"),
        ("0", "0.0.0.0"),
        ("127.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
    ],
)
def test_an_address_or_a_name_is_bound(host: str | None, bound_to: str) -> None:
    environ = {"PORT": str(free_port())} | ({} if host is None else {"HOST": host})
    with bound_socket(environ, default_port=1) as bound:
        assert (url_host(bound), bound.getsockname()[1]) == (bound_to, int(environ["PORT"]))


@pytest.mark.parametrize(
    ("host", "bound_to"),
    [
        ("::", "[::]"),
        ("[::]", "[::]"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("0:0:0:0:0:0:0:1", "[::1]"),
        ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
    ],
)
def test_ipv6_may_stand_in_brackets(host: str, bound_to: str) -> None:
    with ipv6(), bound_socket({"HOST": host}, default_port=free_port()) as bound:
        assert url_host(bound) == bound_to


@needs_linux
def test_an_address_of_one_interface_has_the_number_of_it() -> None:
    """As Cog's server, which knows no names of interfaces, understands it."""
    rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    rows = [row for row in rows if row[0].startswith("fe80")]
    if not rows:
        pytest.skip("no interface has a link-local address")
    digits, number, *_, name = rows[0]
    host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
    with bound_socket({"HOST": f"{host}%{name}"}, default_port=free_port()) as bound:
        assert url_host(bound) == f"[{host}%{int(number, 16)}]"


def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    port = free_port()
    with ipv6(), bound_socket({"HOST": "::"}, default_port=port) as bound:
        begin_to_listen(bound)
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


@pytest.mark.parametrize(
    "host",
    ["x86_64-conda-linux-gnu", "no.such.host.invalid", "http://0.0.0.0", "0.0.0.0:5000",
     "[::]:5000", "::1%lo", "/run/e5.sock", "unix:/run/e5.sock", "my host", "a..b", "[::1", "[]",
     "\udcff", "127.0.0.1,::1"],
)  # fmt: skip
def test_a_host_that_cannot_be_resolved_is_named(host: str) -> None:
    shown = host.encode("unicode_escape").decode().replace("\\", "\\\\")
    assert refusal(HOST=host) == f"HOST: received '{shown}', {UNRESOLVED}; {REMEDY}"


def test_a_name_server_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: is_over.wait() and [])
    with pytest.raises(InputError, match=f"^HOST: received 'some.host', {UNRESOLVED}; "):
        bound_socket({"HOST": "some.host"}, default_port=free_port(), lookup_seconds=0.01)
    is_over.set()


@pytest.mark.parametrize("host", ["192.0.2.77", "[2001:db8::77]"])
def test_an_address_of_no_interface_is_named(host: str) -> None:
    with ipv6():
        expected = f"HOST: received '{host}', which no interface of this machine has; {REMEDY}"
        assert refusal(HOST=host) == expected


@needs_linux
def test_a_link_local_address_without_its_interface_is_named() -> None:
    with ipv6():
        assert refusal(HOST="fe80::1").startswith(
            "HOST: received 'fe80::1', which cannot be listened on (Invalid argument); use an "
        )


@pytest.mark.parametrize(
    "port",
    ["0", "-1", "65536", "5000/tcp", "tcp://10.0.0.1:5000", "five", "5e3", "0x50", "+80", "80.0",
     "5000,5001", "²", "9" * 50],
)  # fmt: skip
def test_a_port_that_is_no_number_of_a_port_is_refused(port: str) -> None:
    assert refusal(PORT=port) == f"PORT: received '{port}'; use 1 to 65535."


@pytest.mark.parametrize("port", ["", " ", "9" * 5000])
def test_the_number_of_a_port_has_16_bits(port: str) -> None:
    assert port_number("8080") == 8080
    with pytest.raises(InputError, match=r"^PORT: received '.*'; use 1 to 65535\.$"):
        port_number(port)


@pytest.mark.parametrize("given", [" {} ", "0{}", ""])
def test_a_port_may_have_blanks_and_zeros_or_be_absent(given: str) -> None:
    port = free_port()
    with bound_socket({"PORT": given.format(port)}, default_port=port) as bound:
        assert bound.getsockname()[1] == port


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("0.0.0.0", marks=needs_linux)])
@pytest.mark.parametrize("is_default", [False, True])
def test_a_port_that_is_taken_is_named(host: str, is_default: bool) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError) as caught:
            bound_socket({"HOST": host, "PORT": "" if is_default else str(port)}, default_port=port)
    received = f"nothing, so that it is {port}" if is_default else str(port)
    assert str(caught.value) == (
        f"PORT: received {received}, where something listens already (at {host}); use another port."
    )


@needs_linux
def test_a_port_that_was_taken_in_the_meantime_is_named() -> None:
    environ = {"PORT": str(free_port())}
    with (
        bound_socket(environ, default_port=1) as ours,
        bound_socket(environ, default_port=1) as other,
    ):
        begin_to_listen(other)
        with pytest.raises(InputError, match=r"^PORT: received \d+, where something listens"):
            begin_to_listen(ours)


@needs_linux
def test_a_port_of_root_alone_is_named() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("any user may listen on any port here")
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        sentence = refusal(PORT="1")
    finally:
        os.seteuid(user)
    assert sentence == (
        "PORT: received 1, on which this user may not listen; "
        "use 1024 or more, or permit it (CAP_NET_BIND_SERVICE)."
    )


@pytest.mark.parametrize("command", ["serve", "gateway"])
@pytest.mark.parametrize(
    ("variable", "value"), [("HOST", "x86_64-conda-linux-gnu"), ("PORT", "tcp://10.0.0.1:5000")]
)
def test_both_servers_look_at_them_before_anything_is_loaded(
    command: str, variable: str, value: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is not even looked for."""
    monkeypatch.setenv("E5_WEIGHTS", "/nowhere")
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv(variable, value)
    done = run(command)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"{variable}: received '{value}'")
    assert len(done.err.splitlines()) == 1


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(address, raise_on_error=True)
    assert result.attempted > 0
