"""HAProxy and nginx before three gateways, of which one is killed and one ends while all are asked.

Both programs run with the files of deploy/, but for the addresses in them.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from checkpoints import load
from gateway_server import WEIGHTS, GatewayServer, serve_gateway
from numpy.typing import NDArray
from ports import free_port
from server import ROOT, kill_group
from waiting import SECONDS, wait_until

pytestmark = pytest.mark.slow

PATH = f"{os.environ['PATH']}:/usr/sbin"
FILES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}
TEXTS = [f"Text {number} is about snow, rain and {number * 7} mountains." for number in range(64)]
PADDING = b" " * 100_000  # still small enough to be sent again
NUM_CALLERS = 6


@dataclass
class Proxy:
    """A running proxy, and what its callers were answered.

    Attributes:
        client: talks to it.
        log_file: what it wrote.
        num_right: answers with the right vector and the request's own id.
        wrong: what else was answered.
    """

    client: httpx2.Client
    log_file: Path
    num_right: int = 0
    wrong: list[str] = field(default_factory=list)

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
        client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=SECONDS, trust_env=False
        )
        proxy = Proxy(stack.enter_context(client), log_file)

        def is_ready() -> bool:
            assert process.poll() is None, proxy.log
            with suppress(httpx2.TransportError):
                return client.get("/ready").status_code == 200
            return False

        wait_until(is_ready)
        yield proxy


def ask(proxy: Proxy, number: int, expected: NDArray[np.float32]) -> None:
    """Ask for one vector with an id of its own, and note whether the answer is its answer."""
    which, sent = number % len(TEXTS), f"request-{number}"
    body = json.dumps({"model": "e5-mini", "input": TEXTS[which]}).encode()
    headers = {"content-type": "application/json", "x-request-id": sent}
    content = body + PADDING * (number % 20 == 0)
    try:
        answer = proxy.client.post("/v1/embeddings?key=secret", content=content, headers=headers)
    except httpx2.TransportError as error:
        proxy.wrong.append(f"{sent}: {error!r}")
        return
    if answer.status_code != 200:
        proxy.wrong.append(f"{sent}: {answer.status_code} {answer.text}")
    elif answer.headers.get_list("x-request-id") != [sent]:
        proxy.wrong.append(f"{sent}: {answer.headers}")
    elif not np.allclose(vectors(answer), expected[which], atol=1e-5):
        proxy.wrong.append(f"{sent}: another vector")
    else:
        proxy.num_right += 1


def ask_for_a_kept_prediction(proxy: Proxy) -> None:
    """Make a prediction, and ask for it once more: only one of the gateways has it."""
    inputs = {"input": {"query": "snow", "normalize": True}}
    made = proxy.client.post("/v1/models/you/e5-mini/predictions", json=inputs).json()
    kept = proxy.client.get(made["urls"]["get"])
    if kept.status_code != 200 or kept.json()["output"] != made["output"]:
        proxy.wrong.append(f"a kept prediction: {kept.status_code}")


def vectors(answer: httpx2.Response) -> NDArray[np.float32]:
    """The vectors of an answer, [num_texts, num_dimensions]."""
    data: list[dict[str, Any]] = answer.json()["data"]
    return np.array([item["embedding"] for item in data], np.float32)


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    """The right vectors of `TEXTS`, normalised as the gateway's are."""
    return load(WEIGHTS).encode_document(TEXTS, normalize=True)


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
        for proxy in running.values():
            for _ in gateways:
                ask_for_a_kept_prediction(proxy)
        numbers, is_over = count(), False

        def go_on_asking(proxy: Proxy) -> None:
            while not is_over:
                ask(proxy, next(numbers), expected)

        def wait_for_answers(num_more: int) -> None:
            goals = [(proxy, proxy.num_right + num_more) for proxy in running.values()]
            wait_until(lambda: all(proxy.num_right >= goal or proxy.wrong for proxy, goal in goals))

        with ThreadPoolExecutor(NUM_CALLERS * len(names)) as pool:
            asking = [
                pool.submit(go_on_asking, proxy)
                for proxy in running.values()
                for _ in range(NUM_CALLERS)
            ]
            try:
                wait_for_answers(40)
                for gateway in gateways:
                    assert gateway.counted(route="/v1/embeddings") > 0
                gateways[0].process.send_signal(signal.SIGKILL)
                wait_for_answers(40)
                gateways[1].process.send_signal(signal.SIGTERM)
                assert gateways[1].process.wait(SECONDS) == 0
                wait_for_answers(40)
            finally:
                is_over = True
            for each in asking:
                each.result()
        yield running


@pytest.fixture(params=FILES)
def proxy(request: pytest.FixtureRequest, proxies: dict[str, Proxy]) -> Proxy:
    if request.param not in proxies:
        pytest.skip(f"{request.param} is not installed, or needs root")
    return proxies[request.param]


def test_when_a_gateway_is_killed_and_another_ends_every_answer_is_right(proxy: Proxy) -> None:
    assert proxy.wrong == []
    assert proxy.num_right >= 120


def test_the_log_has_ids_and_neither_keys_nor_texts(proxy: Proxy) -> None:
    assert re.search(r" request-\d+ POST /v1/embeddings 200 ", proxy.log)
    assert "secret" not in proxy.log
    assert "snow" not in proxy.log


def test_a_caller_without_an_id_gets_one(proxy: Proxy) -> None:
    answer = proxy.client.get("/health")
    assert len(answer.headers["x-request-id"]) >= 32
    wait_until(lambda: f"{answer.headers['x-request-id']} GET /health 200" in proxy.log)


@pytest.mark.parametrize(("megabytes", "status"), [(31, 200), (32.5, 413)])
def test_a_body_of_32_megabytes_reaches_a_gateway(
    proxy: Proxy, megabytes: float, status: int
) -> None:
    body = json.dumps({"model": "e5-mini", "input": "snow"}).encode()
    content = body + b" " * int(megabytes * 2**20)
    answer = proxy.client.post(
        "/v1/embeddings", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    if status == 413:
        assert "32" in answer.json()["error"]["message"]  # the gateway's own words


def test_a_large_answer_arrives_whole(proxy: Proxy, expected: NDArray[np.float32]) -> None:
    texts = TEXTS * 8
    answer = proxy.client.post("/v1/embeddings", json={"model": "e5-mini", "input": texts})
    assert len(answer.content) > 2**20
    np.testing.assert_allclose(vectors(answer), np.tile(expected, (8, 1)), atol=1e-5)
