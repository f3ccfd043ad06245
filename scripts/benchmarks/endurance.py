"""The real server under load for long: whether memory or folders grow.

Knows nothing of how the server is started, nor of the engine inside.
"""

import argparse
import os
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.server import Predict, serve
from benchmarks.subjects import english_words

REQUESTS = 100_000
CLIENTS = 16
ROUNDS = 10
FOLDERS = Path("/tmp/coglet/predictions")  # where Cog leaves what it makes for each prediction


def soak_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A hundred thousand mixed requests; memory of the server and its worker after each tenth.

    The first tenth warms up; growth is told from its end.
    """
    weights = arguments.weights or "weights/e5-mini"
    rows: list[dict[str, Any]] = []
    before = _folders()  # of servers that were killed
    with serve(E5_WEIGHTS=str(Path(weights).resolve())) as predict:
        for done in range(1, ROUNDS + 1):
            started = time.perf_counter()
            _send(predict, list(_requests(seed=done)))
            seconds = time.perf_counter() - started
            time.sleep(3)  # what a prediction leaves is removed two seconds after its end
            memory = _megabytes()
            first = rows[0]["MB"] if rows else memory
            rows.append(
                {
                    "requests": done * REQUESTS // ROUNDS,
                    "requests/s": round(REQUESTS // ROUNDS / seconds),
                    "MB": round(memory, 1),
                    "growth %": round(100 * (memory / first - 1), 2),
                    "folders": _folders() - before,
                }
            )
    return rows


def _send(predict: Predict, requests: list[Mapping[str, Any]]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in tqdm(pool.map(predict, requests), total=len(requests), unit="request"):
            pass


def _requests(*, seed: int) -> Iterator[Mapping[str, Any]]:
    """One text most often; sometimes a query with documents, or many texts; both encodings."""
    draw, words = random.Random(seed), english_words()

    def texts(count: int) -> list[str]:
        return [" ".join(draw.choices(words, k=draw.randint(1, 20))) for _ in range(count)]

    for _ in range(REQUESTS // ROUNDS):
        kind = draw.random()
        inputs: dict[str, Any] = {"encoding_format": draw.choice(["float", "base64"])}
        if kind < 0.9:
            inputs[draw.choice(["query", "document"])] = texts(1)[0]
        elif kind < 0.999:
            inputs |= {"query": texts(1)[0], "documents": texts(4), "normalize": True}
        else:
            inputs["documents"] = texts(200)
        yield inputs


def _folders() -> int:
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
