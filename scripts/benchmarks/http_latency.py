"""The real server over HTTP: throughput and latency by clients, and the time of an answer."""

import argparse
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.models import saved_checkpoint
from benchmarks.rounds import side_by_side
from benchmarks.server import Predict, serve
from benchmarks.texts import english_words
from e5.device import choose_device
from e5.embedder import Embedder
from e5.settings import Settings


def http_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Clients that send one text after another, compared with the engine's own batch rate."""
    device = choose_device(arguments.device)
    with saved_checkpoint(arguments, layers=arguments.layers or 2) as weights:
        embedder = Embedder.load(Settings(weights=weights, device=str(device)))
        rng = random.Random(1)
        words = english_words()
        texts = [" ".join(rng.choices(words, k=rng.randint(20, 40))) for _ in range(256)]
        ids = [each.token_ids for each in embedder.tokenize(documents=texts)]
        runs = {str(i): partial(embedder.compute, [text]) for i, text in enumerate(ids[:16])}
        runs["batch"] = partial(embedder.compute, ids[:64])
        times = side_by_side(runs, device, rounds=arguments.rounds, name="the engine")
        batch_rate = 64 / times.pop("batch").median
        # These are the texts that a single client sends.
        single = statistics.median(each.median for each in times.values()) * 1e3
        del embedder  # the server needs the memory
        rows: list[dict[str, Any]] = [
            {
                "clients": "engine, one text",
                "texts/s": round(1e3 / single, 2),
                "p50 ms": round(single, 1),
            },
            {"clients": "engine, batch of 64", "texts/s": round(batch_rate, 2)},
        ]
        with serve(E5_WEIGHTS=str(weights.resolve()), E5_DEVICE=str(device)) as predict:
            rows += [
                _load(predict, texts, clients, max(4 * clients, 16), batch_rate)
                for clients in (1, 2, 4, 8, 16, 32, 64, 128)
            ]
    return rows


def _load(
    predict: Predict, texts: list[str], clients: int, requests: int, batch_rate: float
) -> dict[str, Any]:
    latencies: list[float] = []
    overheads: list[float] = []  # milliseconds that are neither queue nor forward

    def send(i: int) -> None:
        started = time.perf_counter()
        answer = predict({"document": texts[i % len(texts)], "encoding_format": "base64"})
        latencies.append((time.perf_counter() - started) * 1e3)
        metrics = answer["metrics"]
        overheads.append(latencies[-1] - metrics["queue_ms"] - metrics["forward_ms"])

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, range(requests)))
    rate = requests / (time.perf_counter() - started)
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "clients": clients,
        "texts/s": round(rate, 2),
        "of batch rate": round(rate / batch_rate, 3),
        "p50 ms": round(percentiles[49], 1),
        "p95 ms": round(percentiles[94], 1),
        "p99 ms": round(percentiles[98], 1),
        "p50 ms above queue and forward": round(statistics.median(overheads), 1),
    }


_EMPTY_PREDICTOR = """
from collections import OrderedDict
import numpy as np
from cog import BaseRunner, Input
from e5.vectors import encode_base64

VECTORS = np.random.default_rng(0).standard_normal((2, 4096), np.float32)

class EmptyPredictor(BaseRunner):
    async def run(self, encoding_format: str = Input(default="float")) -> dict:
        if encoding_format == "base64":
            return OrderedDict(embeddings_base64=[encode_base64(row) for row in VECTORS])
        return OrderedDict(embeddings=VECTORS.tolist())
"""


def answer_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of an answer above the forward, for two vectors of the 7B model's width.

    They are compared with Cog alone: a predictor that computes nothing gives an answer of the same
    size.
    """
    texts = {"query": "what is snow", "document": "frozen water"}
    device = choose_device(arguments.device)
    with (
        saved_checkpoint(arguments, layers=1) as weights,
        serve(E5_WEIGHTS=str(weights.resolve()), E5_DEVICE=str(device)) as predict,
    ):
        rows = [_overhead(predict, "this service", texts, form) for form in ("float", "base64")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.py"
        file.write_text(_EMPTY_PREDICTOR)
        with serve(f"{file}:EmptyPredictor") as predict:
            rows += [_overhead(predict, "Cog alone", {}, form) for form in ("float", "base64")]
    return rows


def _overhead(
    predict: Predict, system: str, inputs: dict[str, str], encoding_format: str
) -> dict[str, Any]:
    overheads = []
    for _ in range(100):
        started = time.perf_counter()
        answer = predict(inputs | {"encoding_format": encoding_format})
        total = (time.perf_counter() - started) * 1e3
        overheads.append(total - answer["metrics"].get("forward_ms", 0))
    quantiles = statistics.quantiles(overheads[20:], n=20)  # the first 20 warm up
    return {
        "system": system,
        "encoding_format": encoding_format,
        "p50 ms": round(quantiles[9], 2),
        "p95 ms": round(quantiles[18], 2),
    }
