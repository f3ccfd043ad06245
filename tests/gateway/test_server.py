"""The gateway as a process: it says why it does not start, answers any bytes, and ends in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import parse_headers
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from gateway_server import WEIGHTS, GatewayServer, serve_gateway
from ports import free_port
from server import ROOT
from waiting import SECONDS, wait_until

from e5.gateway.server import MAX_HEAD_BYTES
from e5.settings import Settings

BODY: dict[str, Any] = {"model": "e5-mini", "input": "snow"}
LONG: dict[str, Any] = {"model": "e5-mini", "input": ["snow and rain " * 300] * 40}  # a second


@contextmanager
def connection(gateway: GatewayServer) -> Iterator[socket.socket]:
    address = urlsplit(gateway.url)
    with socket.create_connection((str(address.hostname), address.port or 0), SECONDS) as wire:
        yield wire


def answers(
    gateway: GatewayServer, data: bytes, *, count: int = 1
) -> list[tuple[int, dict[str, Any]]]:
    """Status and body of the responses to these bytes, until the gateway hangs up."""
    found: list[tuple[int, dict[str, Any]]] = []
    with connection(gateway) as wire, wire.makefile("rb") as stream, suppress(ConnectionError):
        wire.sendall(data)
        while len(found) < count and (line := stream.readline()):
            status, headers = int(line.split()[1]), parse_headers(stream)
            if status != 100:
                assert headers["x-request-id"]
                found.append((status, json.loads(stream.read(int(headers["content-length"])))))
    return found


def posted(body: bytes, *headers: str, version: str = "1.1", path: str = "/v1/embeddings") -> bytes:
    """A request as bytes."""
    lines = [
        f"POST {path} HTTP/{version}",
        "host: gateway",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.slow
class TestBytes:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x00\xff\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
            b"hello\r\n\r\n",
            b"BREW /pot HTTP/1.1\r\nhost: a\r\n\r\n",
            b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
            b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
            b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    )
    def test_what_is_no_http_is_400_or_a_refusal_and_never_a_5xx(
        self, gateway: GatewayServer, data: bytes
    ) -> None:
        for status, body in answers(gateway, data):
            assert 400 <= status < 500
            assert body["message"].endswith(".")
        assert gateway.client.get("/health").status_code == 200

    @pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n"])
    def test_a_head_that_does_not_end_is_cut_off(
        self, gateway: GatewayServer, start: bytes
    ) -> None:
        piece = b"x: a\r\n" * 4096 if start.endswith(b"1.1\r\n") else b"a" * 2**14
        with connection(gateway) as wire, wire.makefile("rb") as stream:
            wire.sendall(posted(json.dumps(BODY).encode()) + start)  # the one before is answered
            line = stream.readline()
            assert line.split()[1] == b"200"
            length = int(parse_headers(stream)["content-length"])
            stream.read(length)
            with suppress(ConnectionError):
                for _ in range(10_000):  # 160 MB, of which it reads little
                    wire.sendall(piece)
                pytest.fail("all of it was read")
            assert gateway.client.get("/health").status_code == 200

    def test_a_head_of_many_headers_is_read_and_a_larger_one_is_431(
        self, gateway: GatewayServer
    ) -> None:
        with connection(gateway) as wire, wire.makefile("rb") as stream:
            wire.sendall(b"GET /health HTTP/1.1\r\n" + b"x: a\r\n" * 4000 + b"\r\n")
            assert stream.readline().split()[1] == b"200"
            stream.read(int(parse_headers(stream)["content-length"]))
            wire.sendall(b"GET /health HTTP/1.1\r\n")
            assert gateway.client.get("/health").status_code == 200  # the line was read before
            wire.sendall(b"x: " + b"a" * (MAX_HEAD_BYTES - 2))  # nothing is left over: no reset
            assert stream.readline().split()[1] == b"431"

    def test_pipelined_requests_are_answered_in_their_order(self, gateway: GatewayServer) -> None:
        bodies = [json.dumps({"model": "e5-mini", "input": ["a"] * n}).encode() for n in (3, 1, 2)]
        bodies.insert(1, b"no json")
        found = answers(gateway, b"".join(posted(body) for body in bodies), count=4)
        assert [status for status, _ in found] == [200, 400, 200, 200]
        assert [len(body["data"]) for status, body in found if status == 200] == [3, 1, 2]

    @pytest.mark.parametrize(
        ("headers", "version"),
        [
            ((), "1.0"),
            (("connection: close",), "1.1"),
            (("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAE"), "1.1"),
            (("Upgrade: websocket", "Connection: Upgrade"), "1.1"),
            (("expect: 100-continue",), "1.1"),
        ],
    )
    def test_other_ways_of_asking_are_answered(
        self, gateway: GatewayServer, headers: tuple[str, ...], version: str
    ) -> None:
        data = posted(json.dumps(BODY).encode(), *headers, version=version)
        ((status, body),) = answers(gateway, data)
        assert status == 200, body
        assert len(body["data"]) == 1

    def test_a_caller_who_sends_slowly_or_leaves_holds_up_nobody(
        self, gateway: GatewayServer
    ) -> None:
        with ExitStack() as stack:
            wires = [stack.enter_context(connection(gateway)) for _ in range(300)]
            for wire in wires:
                wire.sendall(posted(b"x" * 100)[:-50])
            for wire in wires[::2]:
                wire.shutdown(socket.SHUT_WR)
            assert gateway.client.post("/v1/embeddings", json=BODY).status_code == 200
        assert "Traceback" not in gateway.log

    def test_a_body_over_the_limit_is_413_with_and_without_its_length(
        self, gateway: GatewayServer
    ) -> None:
        large = b'{"input": "' + b"a" * 2**25 + b'"}'
        kind = {"content-type": "application/json"}
        for content in (large, iter([large])):
            with suppress(httpx2.WriteError):  # it need not be read to its end
                answer = gateway.client.post("/v1/embeddings", content=content, headers=kind)
                assert answer.status_code == 413
                assert "32" in answer.json()["error"]["message"]


def begun_requests(gateway: GatewayServer) -> int:
    """How many requests for vectors have arrived, answered or not."""
    num_in_flight = gateway.counted("e5_gateway_in_flight") - 1  # the question itself
    return num_in_flight + gateway.counted(route="/v1/embeddings")


@pytest.mark.slow
class TestTheEnd:
    def test_what_is_in_flight_is_answered(self) -> None:
        with serve_gateway(stop=False) as gateway, ThreadPoolExecutor() as pool:
            asking = [pool.submit(gateway.client.post, "/v1/embeddings", json=LONG) for _ in "abcd"]
            wait_until(lambda: begun_requests(gateway) == 4)
            gateway.process.send_signal(signal.SIGTERM)
            for answer in asking:
                assert answer.result().status_code == 200
                assert len(answer.result().json()["data"]) == 40
            assert gateway.process.wait(SECONDS) == 0
            assert "Traceback" not in gateway.log

    def test_under_load_no_accepted_request_is_lost(self) -> None:
        drain_seconds = Settings.drain_seconds + 0.25
        statuses: Counter[object] = Counter()
        signalled: list[float] = []

        def ask(url: str) -> None:
            with httpx2.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
                while True:
                    try:
                        answer = client.post("/v1/embeddings", json=BODY)
                    except httpx2.TransportError:
                        # It takes no more. Reset, or closed without a word: the kernel had
                        # taken the connection, the gateway not yet.
                        is_over = signalled and time.monotonic() > signalled[0] + drain_seconds
                        statuses["refused" if is_over else "lost"] += 1
                        return
                    statuses[answer.status_code] += 1

        env = {"E5_DRAIN_SECONDS": str(drain_seconds)}
        with ThreadPoolExecutor(16) as pool, serve_gateway(stop=False, env=env) as gateway:
            asking = [pool.submit(ask, gateway.url) for _ in range(16)]
            wait_until(lambda: statuses[200] > 50)
            signalled.append(time.monotonic())
            gateway.process.send_signal(signal.SIGTERM)
            code = gateway.process.wait(SECONDS)
            for each in asking:
                each.result()
            assert code == 0
            assert set(statuses) == {200, "refused"}
            assert "Traceback" not in gateway.log

    def test_after_the_first_signal_ready_says_503_and_the_second_ends_at_once(self) -> None:
        env = {"E5_DRAIN_SECONDS": "600"}
        with serve_gateway(stop=False, env=env) as gateway, ThreadPoolExecutor() as pool:
            body = {"model": "e5-mini", "input": ["snow and rain " * 300] * 1000}
            asking = pool.submit(gateway.client.post, "/v1/embeddings", json=body)
            wait_until(lambda: begun_requests(gateway) == 1)
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: gateway.client.get("/ready").status_code == 503)
            assert gateway.client.get("/health").status_code == 200
            gateway.process.send_signal(signal.SIGINT)
            gateway.process.wait(SECONDS)
            with suppress(httpx2.TransportError):
                assert asking.result().status_code >= 500


# Those of the command line alone are in tests/cli/test_gateway_command.py.
FAULTS: dict[str, tuple[list[str], dict[str, str], str]] = {
    "an alias of nothing": (["--alias", "ada=gpt"], {}, "--alias: received ada=gpt; write "),
    "no address": (["--backend", "ftp://a"], {}, '--backend: received "ftp://a"; use '),
    "no index": (["--index", "/nowhere"], {}, "--index: received /nowhere, which holds no index"),
    "no token": (["--backend", "replicate:you/e5"], {"REPLICATE_API_TOKEN": ""}, "REPLICATE_API_T"),
    "no such host": ([], {"HOST": "no.such.host.invalid"}, "HOST: received 'no.such.host.in"),
}


def begun(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's whole run."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("E5_")}
    return subprocess.run(
        [sys.executable, "-m", "e5", "gateway", *arguments],
        env={
            **environ,
            "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}",
            "E5_WEIGHTS": str(WEIGHTS),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_one_sentence_says_why_it_does_not_start(fault: str) -> None:
    arguments, environment, sentence = FAULTS[fault]
    done = begun(arguments, **{"PORT": str(free_port())} | environment)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert sentence in last
    assert last.endswith(".")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_keys_texts_and_what_would_move_a_cursor_never_reach_the_log() -> None:
    with serve_gateway(key="the-secret-key") as gateway:
        for body in (
            BODY | {"input": "a-secret-text"},
            BODY | {"input": ["a-secret-text\x1b[2J", None]},
            BODY | {"model": "a-secret-text\x1b[2J\nINFO forged"},
            {"a-secret-text\n": 1},
        ):
            gateway.client.post("/v1/embeddings", json=body)
            gateway.client.post("/v1/embeddings", json=body, headers={"authorization": "Bearer no"})
        gateway.client.get("/a-secret-text%1b%0aforged?a-secret-text")
        no_key = {"authorization": ""}  # instead of the client's own
        for path in ("/v1/embeddings", "//v1/v1/embeddings/", "/nothing", "/metrics"):
            for key in ("the-secret-key", "another-secret-key"):
                gateway.client.post(f"{gateway.url}{path}?key={key}", json=BODY, headers=no_key)
        answers(gateway, b"GET /a-secret-text\x1b[2J HTTP/1.1\r\na-secret-text\r\n\r\n")
        for secret in ("secret-key", "a-secret-text", "forged", "\x1b"):
            assert secret not in gateway.log
        assert " 401 for /v1/embeddings, request " in gateway.log
