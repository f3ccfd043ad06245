"""The real server under load: whether memory or folders grow, and how long small requests wait."""

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
from tqdm import tqdm

from benchmarks.server import SLOTS, Predict, request_prediction, running, serve
from benchmarks.texts import english_words

CLIENTS = 16
ROUNDS = 10
LARGEST = 200  # texts of the largest requests
FAIRNESS_SECONDS = 20
FOLDERS = Path("/tmp/coglet/predictions")  # Cog makes folders for each prediction there


def soak_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory of the server and its worker after each tenth of `--requests` mixed requests.

    Cog's worker keeps a buffer for each of its slots, as large as the largest answer that went
    through it, and uses the slots in turn. So the warm-up sends the largest request to each slot.
    Growth is measured from the end of the first tenth. The dtype is float32: in bfloat16 oneDNN
    keeps 64 compiled products, which move the memory by some per cent up and down.
    """
    weights = arguments.weights or "weights/e5-mini"
    rows: list[dict[str, Any]] = []
    before = _count_folders()  # servers that were killed have left some
    tenth = arguments.requests // ROUNDS
    with serve(E5_WEIGHTS=str(Path(weights).resolve()), E5_DTYPE="float32") as predict:
        largest = {"documents": ["snow and ice on the road in winter"] * LARGEST}
        _send(predict, [largest] * SLOTS)
        for done in range(1, ROUNDS + 1):
            started = time.perf_counter()
            _send(predict, list(_requests(tenth, seed=done)))
            seconds = time.perf_counter() - started
            time.sleep(3)  # the folders of a prediction are removed two seconds after its end
            memory = _megabytes()
            first = rows[0]["MB"] if rows else memory
            rows.append(
                {
                    "requests": done * tenth,
                    "requests/s": round(tenth / seconds),
                    "MB": round(memory, 1),
                    "growth %": round(100 * (memory / first - 1), 2),
                    "folders": _count_folders() - before,
                }
            )
    return rows


def fairness_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Latencies of eight clients with a short text each, alone and beside large requests."""
    weights = arguments.weights or "weights/e5-mini"
    rng, words = random.Random(0), english_words()

    def texts(count: int, length: int) -> list[str]:
        return [" ".join(rng.choices(words, k=length)) for _ in range(count)]

    short = {"documents": texts(2048, 3), "encoding_format": "base64"}
    long = {"documents": texts(2048, 150), "encoding_format": "base64"}
    scores = {"queries": texts(1024, 3), "documents": texts(1024, 3)}
    loads: dict[str, list[dict[str, Any]]] = {
        "nobody": [],
        "4 x 2,048 short texts": [short] * 4,
        "1 x 2,048 long texts": [long],
        "8 answers of 1.4 million numbers": [scores] * 8,
    }
    rows = []
    with (
        running(E5_WEIGHTS=str(Path(weights).resolve())) as url,
        ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool,
    ):
        list(
            pool.map(_request_until, [url] * 8, [short] * 8, [0.0] * 8)
        )  # so that all processes have started
        for load, large in loads.items():
            latencies = _beside(url, large, pool)
            percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
            row = {f"p{n} ms": round(percentiles[n - 1], 1) for n in (50, 95, 99)}
            rows.append({"beside": load, "requests": len(latencies), **row})
    return rows


def _beside(url: str, large: list[dict[str, Any]], pool: ProcessPoolExecutor) -> list[float]:
    """Latencies of small requests, while a process for each large request sends it repeatedly."""
    end = time.time() + FAIRNESS_SECONDS
    loads = [pool.submit(_request_until, url, inputs, end) for inputs in large]
    small = {"query": "what is snow", "encoding_format": "base64"}
    with ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(_request_until, url, small, end, pause=0.05) for _ in range(8)]
        latencies = [latency for client in clients for latency in client.result()]
    for load in loads:
        load.result()
    return latencies


def _request_until(
    url: str, inputs: dict[str, Any], end: float, *, pause: float = 0
) -> list[float]:
    """Send requests until `end`, in Unix time.

    Returns:
        The milliseconds of each answer. The answers are not parsed.
    """
    latencies: list[float] = []
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        while time.time() < end:
            started = time.perf_counter()
            request_prediction(client, inputs)
            latencies.append((time.perf_counter() - started) * 1e3)
            time.sleep(pause)
    return latencies


def _send(predict: Predict, requests: list[Mapping[str, Any]]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in tqdm(pool.map(predict, requests), total=len(requests), unit="request"):
            pass


def _requests(count: int, *, seed: int) -> Iterator[Mapping[str, Any]]:
    """Mostly requests of one text, some of a query with documents, few of many texts."""
    rng, words = random.Random(seed), english_words()

    def texts(count: int) -> list[str]:
        return [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(count)]

    for _ in range(count):
        kind = rng.random()
        inputs: dict[str, Any] = {"encoding_format": rng.choice(["float", "base64"])}
        if kind < 0.9:
            inputs[rng.choice(["query", "document"])] = texts(1)[0]
        elif kind < 0.999:
            inputs |= {"query": texts(1)[0], "documents": texts(4), "normalize": True}
        else:
            inputs["documents"] = texts(LARGEST)
        yield inputs


def _count_folders() -> int:
    return sum(1 for _ in FOLDERS.glob("*"))


def _megabytes() -> float:
    """Resident memory of all processes below this one."""
    pids, total = [os.getpid()], 0
    while pids:
        for listed in Path(f"/proc/{pids.pop()}/task").glob("*/children"):
            for child in map(int, listed.read_text().split()):
                pids.append(child)
                total += int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6
