"""HAProxy and nginx before three gateways, of which one is killed and one ends while all are asked.

Both programs run with the files of deploy/, but for the addresses in them.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest
from gateway_server import GatewayServer, serve_gateway
from numpy.typing import NDArray
from ports import free_port
from server import ROOT, kill_group
from under_load import TEXTS, Door, under_load, vectors_in
from waiting import SECONDS, wait_until

pytestmark = pytest.mark.slow

PATH = f"{os.environ['PATH']}:/usr/sbin"
FILES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Attributes:
        door: where it is asked.
        log_file: what it wrote.
        survivor: the gateway that is left after the accidents.
    """

    door: Door
    log_file: Path
    survivor: GatewayServer

    @property
    def log(self) -> str:
        """What the proxy has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")


@contextmanager
def serve_proxy(name: str, gateways: list[GatewayServer]) -> Iterator[Proxy]:
    """Run a proxy as its file of deploy/ has it, before these gateways."""
    port = free_port()
    text = (ROOT / "deploy" / FILES[name]).read_text(encoding="utf-8")
    text, num_listening = re.subn(r"(bind |listen )(:?)8080", rf"\g<1>127.0.0.1:{port}", text)
    assert num_listening == 1
    for number, gateway in enumerate(gateways, start=1):
        assert f"gateway-{number}:8080" in text
        text = text.replace(f"gateway-{number}:8080", gateway.url.removeprefix("http://"))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config, log_file = Path(folder) / FILES[name], Path(folder) / "log"
        config.write_text(text, encoding="utf-8")
        options = {
            "haproxy": ["-db", "-f", str(config)],
            "nginx": ["-c", str(config), "-g", f"daemon off; pid {folder}/pid;"],
        }
        log = stack.enter_context(log_file.open("wb"))
        process = subprocess.Popen(
            [name, *options[name]],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PATH": PATH},
        )
        stack.callback(kill_group, process)
        url = f"http://127.0.0.1:{port}"
        client = httpx2.Client(base_url=url, timeout=SECONDS, trust_env=False)
        proxy = Proxy(Door(stack.enter_context(client)), log_file, gateways[-1])

        def is_ready() -> bool:
            assert process.poll() is None, proxy.log
            return proxy.door.is_ready()

        wait_until(is_ready)
        yield proxy


def ask_for_a_kept_prediction(door: Door) -> None:
    """Make a prediction, and ask for it once more: only one of the gateways has it."""
    inputs = {"input": {"query": "snow", "normalize": True}}
    made = door.client.post("/v1/models/you/e5-mini/predictions", json=inputs).json()
    kept = door.client.get(made["urls"]["get"])
    if kept.status_code != 200 or kept.json()["output"] != made["output"]:
        door.wrong.append(f"a kept prediction: {kept.status_code}")


@pytest.fixture(scope="module")
def proxies(expected: NDArray[np.float32]) -> Iterator[dict[str, Proxy]]:
    """Those that are installed, after the accidents; behind them the third gateway still answers.

    Both run before the same gateways at the same time.
    """
    names = [name for name in FILES if shutil.which(name, path=PATH)]
    if os.geteuid() != 0:
        names = [name for name in names if name != "nginx"]  # Debian's writes below /var/lib/nginx
    if not names:
        pytest.skip("neither haproxy nor nginx can be run")
    with ExitStack() as stack:
        gateways = [stack.enter_context(serve_gateway(stop=False)) for _ in range(3)]
        running = {name: stack.enter_context(serve_proxy(name, gateways)) for name in names}
        doors = [proxy.door for proxy in running.values()]
        for door in doors * len(gateways):
            ask_for_a_kept_prediction(door)
        with under_load(doors, expected) as wait_for_answers:
            wait_for_answers(40)
            for gateway in gateways:
                assert gateway.counted(route="/v1/embeddings") > 0
            gateways[0].process.send_signal(signal.SIGKILL)
            wait_for_answers(40)
            gateways[1].process.send_signal(signal.SIGTERM)
            assert gateways[1].process.wait(SECONDS) == 0
            wait_for_answers(40)
        yield running


@pytest.fixture(params=FILES)
def proxy(request: pytest.FixtureRequest, proxies: dict[str, Proxy]) -> Proxy:
    if request.param not in proxies:
        pytest.skip(f"{request.param} is not installed, or needs root")
    return proxies[request.param]


def test_when_a_gateway_is_killed_and_another_ends_every_answer_is_right(proxy: Proxy) -> None:
    assert proxy.door.lost + proxy.door.wrong == []
    # The killed gateway may have written a head, and not yet the body that it writes next.
    assert len(proxy.door.half_sent) <= 1
    assert proxy.door.num_right >= 120


def test_the_log_has_ids_and_neither_keys_nor_texts(proxy: Proxy) -> None:
    assert re.search(r" request-\d+ POST /v1/embeddings 200 ", proxy.log)
    assert "secret" not in proxy.log
    assert "snow" not in proxy.log


@pytest.mark.parametrize("sent", [None, "two words", "x" * 129])
def test_a_caller_without_an_id_that_a_log_can_hold_gets_one(
    proxy: Proxy, sent: str | None
) -> None:
    answer = proxy.door.client.get("/health", headers={"x-request-id": sent} if sent else {})
    found = answer.headers["x-request-id"]
    assert 32 <= len(found) <= 36
    wait_until(lambda: f" {found} GET /health 200 " in proxy.log)


def test_the_request_of_a_caller_who_hangs_up_is_not_computed(proxy: Proxy) -> None:
    gateway, url = proxy.survivor, proxy.door.client.base_url
    texts = [f"{number} {'snow and rain ' * 300}" for number in range(100)]
    body = json.dumps({"model": "e5-mini", "input": texts}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    given_up = gateway.counted(status="400")
    with socket.create_connection((url.host, url.port or 0)) as wire:
        wire.sendall(head.encode() + body)
        wait_until(lambda: gateway.counted("e5_gateway_queue_tokens") > 0)
    wait_until(lambda: gateway.counted(status="400") == given_up + 1)


@pytest.mark.parametrize(("megabytes", "status"), [(31, 200), (32.5, 413)])
def test_a_body_of_32_megabytes_reaches_a_gateway(
    proxy: Proxy, megabytes: float, status: int
) -> None:
    body = json.dumps({"model": "e5-mini", "input": "snow"}).encode()
    content = body + b" " * int(megabytes * 2**20)
    kind = {"content-type": "application/json"}
    answer = proxy.door.client.post("/v1/embeddings", content=content, headers=kind)
    assert answer.status_code == status, answer.text
    if status == 413:
        assert "32" in answer.json()["error"]["message"]  # the gateway's own words


def test_a_large_answer_arrives_whole(proxy: Proxy, expected: NDArray[np.float32]) -> None:
    body = {"model": "e5-mini", "input": TEXTS * 8}
    answer = proxy.door.client.post("/v1/embeddings", json=body)
    assert len(answer.content) > 2**20
    np.testing.assert_allclose(vectors_in(answer), np.tile(expected, (8, 1)), atol=1e-5)
