"""Memory of the worker while it answers or refuses each kind of large request."""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.models import MINI
from benchmarks.server import SLOTS, running
from benchmarks.texts import english_words
from e5.device import choose_device

ALL_SLOTS = f"{SLOTS} answers of 384,000 numbers, one after the other"


def peak_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The peak above the resident memory before a request, and what stays after it, in MB."""
    weights = Path(arguments.weights or MINI).resolve()
    device = str(choose_device(arguments.device))
    rows = []
    with (
        running(E5_WEIGHTS=str(weights), E5_DEVICE=device) as url,
        httpx2.Client(base_url=url, timeout=600, trust_env=False) as client,
    ):
        worker = _worker()
        client.post("/predictions", json={"input": {"document": "snow " * 3000}})  # warm-up
        for kind, body in _bodies().items():
            time.sleep(12)  # the worker frees the memory of the last request
            before = _resident(worker)
            Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # resets VmHWM
            content, started = json.dumps(body).encode(), time.perf_counter()
            for _ in range(SLOTS if kind == ALL_SLOTS else 1):
                answer = client.post(
                    "/predictions", content=content, headers={"Content-Type": "application/json"}
                )
            seconds = time.perf_counter() - started
            peak = _status(worker, "VmHWM:")
            del content
            time.sleep(12)
            client.post(
                "/predictions", json={"input": {"document": "snow"}}
            )  # the worker frees memory after it
            rows.append(
                {
                    "request": kind,
                    "status": answer.json().get("status", answer.status_code),
                    "seconds": round(seconds, 1),
                    "peak MB": round(peak - before),
                    "stays MB": round(_resident(worker) - before),
                }
            )
    return rows


def _bodies() -> dict[str, dict[str, Any]]:
    rng, words = random.Random(0), english_words()

    def texts(count: int, length: int) -> list[str]:
        return [" ".join(rng.choices(words, k=length)) for _ in range(count)]

    base64 = {"encoding_format": "base64"}
    inputs: dict[str, dict[str, Any]] = {
        "2,048 texts of 300 words": {"documents": texts(2048, 300), **base64},
        "2,048 short texts": {"documents": texts(2048, 3), **base64},
        "one text of a million characters": {"document": "snow and ice " * 76_923, **base64},
        "10 texts of a million characters": {"documents": ["snow and ice " * 76_900] * 10},
        "answers of 1.4 million numbers": {
            "queries": texts(1024, 3),
            "documents": texts(1024, 3),
        },
        ALL_SLOTS: {"documents": texts(2000, 3)},  # Cog's worker keeps a buffer for each slot
        "refused: 11 million characters": {"documents": ["snow and ice " * 76_923] * 11},
        "refused: 25 million numbers": {"documents": [1] * 25_000_000},
        "refused: 96 MB of text": {"document": "x" * 96_000_000},
    }
    return {kind: {"input": fields} for kind, fields in inputs.items()}


def _worker() -> psutil.Process:
    """The child process that holds the model: the largest one."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return max(found, key=lambda process: int(process.memory_info().rss))


def _resident(worker: psutil.Process) -> float:
    return _status(worker, "VmRSS:")


def _status(worker: psutil.Process, field: str) -> float:
    text = Path(f"/proc/{worker.pid}/status").read_text()
    return int(text.partition(field)[2].split()[0]) / 1e3 * 1.024
