"""Faults of clients and of a running server, and how many of its answers are wrong: none may be.

A row says how often a fault was tried and how many answers were wrong. Nothing is timed.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import psutil
from tqdm import tqdm

from benchmarks.models import MINI, ROOT
from benchmarks.server import running
from benchmarks.texts import english_words
from e5.embedder import Embedder
from e5.settings import Settings
from e5.vectors import Vectors, cosine_scores

CLIENTS, SLOW_CONNECTIONS, PIPELINED = 16, 400, 50
LEAST_COSINE = 99.99  # x 100
Row = dict[str, Any]


def fault_rows(arguments: argparse.Namespace) -> list[Row]:
    """Try every fault on one server; the last one kills its worker."""
    weights = Path(arguments.weights or MINI).resolve()
    rng, words = random.Random(0), english_words()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(500)]
    truth = Embedder.load(Settings(weights=weights, device="cpu")).encode_document(texts)
    with running(E5_WEIGHTS=str(weights), E5_DEVICE="cpu") as url:
        server = ServerUnderTest(url, texts, truth)
        faults: dict[str, Callable[[], tuple[int, int]]] = {
            "mixed requests at a time": lambda: server.mixed(arguments.requests),
            "beside 400 slow connections": server.beside_slow_connections,
            "pipelined on one connection": server.pipelined,
            "half-closed after the request": server.half_closed,
            "hung up before the answer": server.hung_up,
            "the worker is killed by SIGSEGV": server.killed,
        }
        rows = []
        for fault, run in faults.items():
            tried, wrong = run()
            rows.append({"fault": fault, "tried": tried, "wrong": wrong})
    return rows


class ServerUnderTest:
    """A server, and texts whose vectors are known."""

    def __init__(self, url: str, texts: list[str], truth: Vectors) -> None:
        """Keep the texts and the true vector of each."""
        self._url, self._texts, self._truth = url, texts, truth
        self._address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.Client(base_url=url, timeout=120, limits=limits, trust_env=False)

    def mixed(self, requests: int) -> tuple[int, int]:
        """Send requests of one to twenty texts from several clients; compare every vector."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            done = pool.map(self._answers_correctly, range(requests))
            right = sum(tqdm(done, total=requests, unit="request", leave=False))
        return requests, requests - right

    def _answers_correctly(self, number: int) -> bool:
        rng = random.Random(number)
        numbers = rng.sample(range(len(self._texts)), rng.choice((1, 1, 1, 2, 5, 20)))
        response = self._client.post("/predictions", json=self._body(numbers))
        while response.status_code == 409:  # Cog frees a slot after it has sent the answer
            time.sleep(0.01)
            response = self._client.post("/predictions", json=self._body(numbers))
        return self._is_correct(response.json(), numbers)

    def _body(self, numbers: list[int]) -> dict[str, Any]:
        return {"input": {"documents": [self._texts[i] for i in numbers]}}

    def _is_correct(self, answer: dict[str, Any], numbers: list[int]) -> bool:
        if answer.get("status") != "succeeded":
            return False
        vectors = np.array(answer["output"]["embeddings"], np.float32)
        return bool(np.diag(cosine_scores(vectors, self._truth[numbers])).min() >= LEAST_COSINE)

    def _request(self, number: int) -> bytes:
        body = json.dumps(self._body([number]))
        head = f"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Content-Type: application/json\r\n\r\n{body}".encode()

    def _read(self, stream: Any, number: int) -> bool:
        """Read one answer from a raw connection, and say whether it is correct."""
        status = stream.readline()
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return b" 200 " in status and self._is_correct(json.loads(stream.read(length)), [number])

    def beside_slow_connections(self) -> tuple[int, int]:
        """Send requests beside connections that send a byte now and then; both are answered."""
        connections = [socket.create_connection(self._address) for _ in range(SLOW_CONNECTIONS)]
        stop = threading.Event()

        def send_slowly() -> None:
            for i in range(20):
                for number, connection in enumerate(connections):
                    connection.sendall(self._request(number)[i : i + 1])
                stop.wait(0.2)

        sender = threading.Thread(target=send_slowly)
        sender.start()
        _, wrong = self.mixed(500)
        stop.set()
        sender.join()
        for number, connection in enumerate(connections):
            with connection, connection.makefile("rb") as stream:
                connection.sendall(self._request(number)[20:])
                wrong += not self._read(stream, number)
        return 500 + SLOW_CONNECTIONS, wrong

    def pipelined(self) -> tuple[int, int]:
        """Send requests without waiting for answers; they are answered in their order."""
        with (
            socket.create_connection(self._address) as connection,
            connection.makefile("rb") as stream,
        ):
            connection.sendall(b"".join(map(self._request, range(PIPELINED))))
            return PIPELINED, sum(not self._read(stream, number) for number in range(PIPELINED))

    def half_closed(self) -> tuple[int, int]:
        """Close the sending half after the request; Cog gives up this client, and no other."""
        for number in range(PIPELINED):
            with (
                socket.create_connection(self._address) as connection,
                connection.makefile("rb") as stream,
            ):
                connection.sendall(self._request(number))
                connection.shutdown(socket.SHUT_WR)
                stream.read()  # an answer or nothing; but the connection ends
        _, wrong = self.mixed(100)
        return PIPELINED + 100, wrong

    def hung_up(self) -> tuple[int, int]:
        """Close connections before the answer; other clients are answered."""
        for number in range(PIPELINED):
            with socket.create_connection(self._address) as connection:
                connection.sendall(self._request(number))
        _, wrong = self.mixed(100)
        return PIPELINED + 100, wrong

    def killed(self) -> tuple[int, int]:
        """Kill the worker; the health check and the probe report it within half a minute."""
        descendants = psutil.Process().children(recursive=True)
        worker = max(descendants, key=lambda process: int(process.memory_info().rss))
        worker.send_signal(signal.SIGSEGV)
        environment = os.environ | {"PORT": str(self._address[1])}
        probe = [sys.executable, str(ROOT / "scripts/probe")]
        end = time.monotonic() + 30
        while time.monotonic() < end:
            health = self._client.get("/health-check").json()["status"]
            code = subprocess.run(probe, env=environment, capture_output=True).returncode
            if health == "UNHEALTHY" and code == 1:
                return 1, 0
            time.sleep(0.5)
        return 1, 1
