"""Engines and fronts are killed, stopped and ended under load, and every answer is right."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from gateway_server import GatewayServer, serve_gateway
from gateway_tools import sentence_of
from process_stand_ins import state_of
from server import ROOT
from waiting import SECONDS, wait_until

from e5.embedder import Embedder
from e5.vectors import Vectors

pytestmark = pytest.mark.slow

KINDS = ("engine", "front")
CLIENTS = 4
# Between two requests of a client, so that a core is free for what is started again.
PAUSE_SECONDS = 0.03
QUICKLY = """
from functools import partial
from e5.serving import whole_machine
limits = whole_machine.ProcessLimits(silent_ticks=16)
whole_machine.run_processes = partial(whole_machine.run_processes, limits=limits)
"""
TEXTS = [["snow and rain " * n, f"text {n}"][: 1 + n % 2] for n in range(1, 40)]


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayServer]:
    """Two engines and two fronts, whose parent finds out after four seconds that one hangs."""
    options = "--engines", "2", "--fronts", "2"
    with serve_gateway(*options, patch=QUICKLY, stop=False) as gateway:
        wait_until(lambda: num_ready(gateway) == {"engine": 2, "front": 2})  # not just one of them
        yield gateway


@pytest.fixture(scope="module")
def truth(python: Embedder) -> list[Vectors]:
    return [python.encode_document(texts, normalize=True) for texts in TEXTS]


def process_ids(gateway: GatewayServer, kind: str) -> list[int]:
    """Those of all engines or fronts that run."""
    parent = gateway.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    mark = {"engine": b"e5.serving.engine_server", "front": b"--front"}[kind]
    return [int(i) for i in children if mark in Path(f"/proc/{i}/cmdline").read_bytes()]


def count(gateway: GatewayServer, name: str, **labels: str) -> int:
    """A counter; asked again where the front that was asked has just died."""
    while True:
        with suppress(httpx2.TransportError):
            return gateway.counted(f"e5_gateway_{name}", **labels)


def restarts(gateway: GatewayServer) -> dict[str, int]:
    return {kind: count(gateway, "restarts_total", kind=kind) for kind in KINDS}


def num_ready(gateway: GatewayServer) -> dict[str, int]:
    return {kind: count(gateway, "processes", kind=kind) for kind in KINDS}


class Load:
    """Clients that ask one after the other, and compare."""

    def __init__(self, url: str, truth: list[Vectors]) -> None:
        self.statuses: Counter[int | str] = Counter()
        self._url, self._truth = url, truth
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def _ask(self, first: int) -> None:
        with httpx2.Client(base_url=self._url, timeout=SECONDS, trust_env=False) as client:
            for number in range(first, 1_000_000):
                if self._is_over.wait(PAUSE_SECONDS):
                    return
                i = number % len(TEXTS)
                try:
                    answer = client.post("/v1/embeddings", json={"input": TEXTS[i]})
                except httpx2.TransportError:
                    self._count("lost")
                    continue
                found = answer.json().get("data", [])
                vectors = np.array([row["embedding"] for row in found], np.float32)
                right = vectors.shape == self._truth[i].shape and np.allclose(
                    vectors, self._truth[i], atol=1e-5
                )
                self._count(answer.status_code if right else f"wrong: {answer.text[:200]}")

    def _count(self, outcome: int | str) -> None:
        with self._lock:
            self.statuses[outcome] += 1

    def wait_for_more(self, number: int) -> None:
        wanted = self.statuses[200] + number
        wait_until(lambda: self.statuses[200] >= wanted or self._is_wrong())

    def _is_wrong(self) -> bool:
        """Whether there is something to see in `statuses` already."""
        return not {*self.statuses} <= {200, "lost"}

    @contextmanager
    def going_on(self) -> Iterator["Load"]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(self._ask, 10 * i) for i in range(CLIENTS)]
            try:
                yield self
            finally:
                self._is_over.set()
        for each in asking:
            each.result()


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGSTOP, pytest.param(signal.SIGTERM, marks=pytest.mark.long)],
)
def test_an_engine_and_a_front_that_end_or_hang_cost_no_answer(
    running: GatewayServer, truth: list[Vectors], number: signal.Signals
) -> None:
    before = restarts(running)
    with Load(running.url, truth).going_on() as load:
        load.wait_for_more(50)  # the fronts see what has come back, too
        for kind in KINDS:
            os.kill(process_ids(running, kind)[0], number)
        wait_until(lambda: all(restarts(running)[kind] > before[kind] for kind in KINDS))
        wait_until(lambda: num_ready(running) == {"engine": 2, "front": 2})
        load.wait_for_more(20)
    lost = load.statuses.pop("lost", 0)
    assert set(load.statuses) == {200}
    assert lost <= CLIENTS  # the connections of that front, each once
    assert "Traceback" not in running.log


def fresh(gateway: GatewayServer) -> httpx2.Client:
    """A client on a connection of its own."""
    return httpx2.Client(base_url=gateway.url, timeout=SECONDS, trust_env=False)


def test_both_fronts_take_connections_and_each_shows_what_both_count(
    running: GatewayServer,
) -> None:
    def num_open() -> list[int]:
        return [len(os.listdir(f"/proc/{front}/fd")) for front in process_ids(running, "front")]

    before, counted = num_open(), running.counted(route="/v1/embeddings")
    with ExitStack() as stack:
        clients = [stack.enter_context(fresh(running)) for _ in range(24)]
        for client in clients:
            assert client.post("/v1/embeddings", json={"input": "snow"}).status_code == 200
        assert all(now > then for now, then in zip(num_open(), before, strict=True))
        for client in clients[:8]:
            assert replace(running, client=client).counted(route="/v1/embeddings") == counted + 24
            text = client.get("/metrics").text
            for line in (
                'e5_gateway_processes{kind="engine"} 2.0',
                'e5_gateway_queue_tokens{engine="2"} ',
                'e5_gateway_restarts_total{cause="unhealthy",kind="engine"} 0.0',
            ):
                assert f"\n{line}" in text


def test_a_prediction_is_found_by_each_front(running: GatewayServer) -> None:
    made = running.client.post("/v1/predictions", json={"input": {"document": "snow"}}).json()
    for _ in range(8):
        with fresh(running) as client:
            assert client.get(f"/v1/predictions/{made['id']}").json() == made
            assert client.get(f"/v1/predictions/{'0' * 32}").status_code == 404
            assert client.get("/v1/predictions/..%2Fkeys").status_code == 404


@pytest.mark.parametrize("arguments", [[], ["--engines", "2"]])
def test_no_other_gateway_can_take_the_port(running: GatewayServer, arguments: list[str]) -> None:
    port = str(urlsplit(running.url).port)
    done = subprocess.run(
        [sys.executable, "-m", "e5", "gateway", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": port},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"PORT: received {port}, where something listens already")


def test_without_an_engine_it_is_not_ready_and_without_the_parent_nobody_is_left(
    running: GatewayServer,
) -> None:
    """The last one: it ends what all others stand on."""
    for engine in process_ids(running, "engine"):
        os.kill(engine, signal.SIGKILL)
    wait_until(lambda: running.client.get("/ready").status_code == 503)
    refused = running.client.post("/v1/embeddings", json={"input": "snow"})
    assert sentence_of(refused, 503).endswith("try again in a moment.")
    wait_until(lambda: len(process_ids(running, "engine")) == 2)  # they load again
    left = process_ids(running, "engine") + process_ids(running, "front")
    os.kill(left[-1], signal.SIGSTOP)
    command = Path(f"/proc/{left[0]}/cmdline").read_bytes().decode().split("\0")
    folder = Path(command[command.index("--socket") + 1]).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not any(map(state_of, left)))
    wait_until(lambda: not folder.exists())


@pytest.mark.long
def test_sigterm_of_all_loses_nothing_that_was_taken(truth: list[Vectors]) -> None:
    with serve_gateway("--engines", "2", "--fronts", "2", stop=False) as gateway:
        with Load(gateway.url, truth).going_on() as load:
            load.wait_for_more(20)
            children = process_ids(gateway, "engine") + process_ids(gateway, "front")
            gateway.process.send_signal(signal.SIGTERM)
            load.wait_for_more(1)  # while it says that it is not ready
            assert gateway.process.wait(SECONDS) == 0
        load.statuses.pop("lost", None)  # those that came too late
        assert set(load.statuses) == {200}
        assert not any(map(state_of, children))
        assert "Traceback" not in gateway.log
