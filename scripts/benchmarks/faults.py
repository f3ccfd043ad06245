"""What callers and accidents do to a running server, and what it answers: nothing may be wrong.

Each row is a fault: how often it was tried, and how many answers were not as they must be. Not
timed. Knows nothing of how the server is started, nor of the engine inside.
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

from benchmarks.server import running
from benchmarks.subjects import MINI, ROOT
from benchmarks.texts import english_words
from e5.embedder import Embedder
from e5.settings import Settings
from e5.vectors import Vectors, cosine_scores

CLIENTS, SLOW, PIPELINED = 16, 400, 50
LEAST_COSINE = 99.99  # x 100
Row = dict[str, Any]


def fault_rows(arguments: argparse.Namespace) -> list[Row]:
    """Every fault in turn on one server; the last one kills its worker."""
    weights = Path(arguments.weights or MINI).resolve()
    draw, words = random.Random(0), english_words()
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 40))) for _ in range(500)]
    truth = Embedder.load(Settings(weights=weights, device="cpu")).encode_document(texts)
    with running(E5_WEIGHTS=str(weights), E5_DEVICE="cpu") as url:
        asked = Asked(url, texts, truth)
        faults: dict[str, Callable[[], tuple[int, int]]] = {
            "mixed requests at a time": lambda: asked.mixed(arguments.requests),
            "beside 400 slow connections": asked.beside_slow_ones,
            "pipelined on one connection": asked.pipelined,
            "half-closed after the request": asked.half_closed,
            "hung up before the answer": asked.hung_up,
            "the worker is killed by SIGSEGV": asked.killed,
        }
        rows = []
        for fault, run in faults.items():
            tried, wrong = run()
            rows.append({"fault": fault, "tried": tried, "wrong": wrong})
    return rows


class Asked:
    """One server, and texts whose vectors are known."""

    def __init__(self, url: str, texts: list[str], truth: Vectors) -> None:
        """`truth`: a vector for each text."""
        self._url, self._texts, self._truth = url, texts, truth
        self._address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.Client(base_url=url, timeout=120, limits=limits, trust_env=False)

    def mixed(self, requests: int) -> tuple[int, int]:
        """Requests of one to twenty texts from several clients; each vector is compared."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            done = pool.map(self._is_right, range(requests))
            right = sum(tqdm(done, total=requests, unit="request", leave=False))
        return requests, requests - right

    def _is_right(self, number: int) -> bool:
        draw = random.Random(number)
        some = draw.sample(range(len(self._texts)), draw.choice((1, 1, 1, 2, 5, 20)))
        response = self._client.post("/predictions", json=self._body(some))
        while response.status_code == 409:  # Cog frees a slot after the answer
            time.sleep(0.01)
            response = self._client.post("/predictions", json=self._body(some))
        return self._fits(response.json(), some)

    def _body(self, some: list[int]) -> dict[str, Any]:
        return {"input": {"documents": [self._texts[i] for i in some]}}

    def _fits(self, answer: dict[str, Any], some: list[int]) -> bool:
        if answer.get("status") != "succeeded":
            return False
        vectors = np.array(answer["output"]["embeddings"], np.float32)
        return bool(np.diag(cosine_scores(vectors, self._truth[some])).min() >= LEAST_COSINE)

    def _request(self, number: int) -> bytes:
        body = json.dumps(self._body([number]))
        head = f"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Content-Type: application/json\r\n\r\n{body}".encode()

    def _read(self, stream: Any, number: int) -> bool:
        """One answer of a raw connection."""
        status = stream.readline()
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return b" 200 " in status and self._fits(json.loads(stream.read(length)), [number])

    def beside_slow_ones(self) -> tuple[int, int]:
        """Others are answered while connections send a byte now and then; so are these."""
        waiting = [socket.create_connection(self._address) for _ in range(SLOW)]
        stop = threading.Event()

        def drip() -> None:
            for place in range(20):
                for number, one in enumerate(waiting):
                    one.sendall(self._request(number)[place : place + 1])
                stop.wait(0.2)

        dripping = threading.Thread(target=drip)
        dripping.start()
        _, wrong = self.mixed(500)
        stop.set()
        dripping.join()
        for number, one in enumerate(waiting):
            with one, one.makefile("rb") as stream:
                one.sendall(self._request(number)[20:])
                wrong += not self._read(stream, number)
        return 500 + SLOW, wrong

    def pipelined(self) -> tuple[int, int]:
        """Requests that do not wait for answers are answered in their order."""
        with socket.create_connection(self._address) as one, one.makefile("rb") as stream:
            one.sendall(b"".join(map(self._request, range(PIPELINED))))
            return PIPELINED, sum(not self._read(stream, number) for number in range(PIPELINED))

    def half_closed(self) -> tuple[int, int]:
        """A client that will send no more is given up by Cog, and takes nobody along."""
        for number in range(PIPELINED):
            with socket.create_connection(self._address) as one, one.makefile("rb") as stream:
                one.sendall(self._request(number))
                one.shutdown(socket.SHUT_WR)
                stream.read()  # an answer or nothing, but an end
        _, wrong = self.mixed(100)
        return PIPELINED + 100, wrong

    def hung_up(self) -> tuple[int, int]:
        """Who leaves takes nobody along."""
        for number in range(PIPELINED):
            with socket.create_connection(self._address) as one:
                one.sendall(self._request(number))
        _, wrong = self.mixed(100)
        return PIPELINED + 100, wrong

    def killed(self) -> tuple[int, int]:
        """Health says so, and so does the probe, within half a minute."""
        below = psutil.Process().children(recursive=True)
        worker = max(below, key=lambda process: int(process.memory_info().rss))
        worker.send_signal(signal.SIGSEGV)
        environment = os.environ | {"PORT": str(self._address[1])}
        probe = [sys.executable, str(ROOT / "scripts/probe")]
        end = time.monotonic() + 30
        while time.monotonic() < end:
            health = self._client.get("/health-check").json()["status"]
            seen = subprocess.run(probe, env=environment, capture_output=True).returncode
            if health == "UNHEALTHY" and seen == 1:
                return 1, 0
            time.sleep(0.5)
        return 1, 1
