"""The real server over HTTP: throughput and latency by clients, and what an answer costs.

Knows nothing of how the server is started, nor of the engine inside.
"""

import argparse
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rounds import side_by_side
from benchmarks.server import Predict, serve
from benchmarks.subjects import saved_checkpoint
from benchmarks.texts import english_words
from e5.device import choose_device
from e5.embedder import Embedder
from e5.settings import Settings


def http_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Clients that each send one text after another, against the engine's own batch rate."""
    device = choose_device(arguments.device)
    with saved_checkpoint(arguments, layers=arguments.layers or 2) as weights:
        embedder = Embedder.load(Settings(weights=weights, device=str(device)))
        draw = random.Random(1)
        words = english_words()
        texts = [" ".join(draw.choices(words, k=draw.randint(20, 40))) for _ in range(256)]
        ids = [encoding.token_ids for encoding in embedder.tokenize(documents=texts)]
        runs = {str(i): partial(embedder.compute, [text]) for i, text in enumerate(ids[:16])}
        runs["batch"] = partial(embedder.compute, ids[:64])
        times = side_by_side(runs, device, rounds=arguments.rounds, name="the engine")
        batch_rate = 64 / times.pop("batch").median
        # of the texts that the lone client sends
        alone = statistics.median(one.median for one in times.values()) * 1e3
        del embedder  # the server needs the memory
        rows: list[dict[str, Any]] = [
            {
                "clients": "engine, one text",
                "texts/s": round(1e3 / alone, 2),
                "p50 ms": round(alone, 1),
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
    above: list[float] = []  # what is neither queue nor forward

    def one(i: int) -> None:
        started = time.perf_counter()
        answer = predict({"document": texts[i % len(texts)], "encoding_format": "base64"})
        latencies.append((time.perf_counter() - started) * 1e3)
        metrics = answer["metrics"]
        above.append(latencies[-1] - metrics["queue_ms"] - metrics["forward_ms"])

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(requests)))
    rate = requests / (time.perf_counter() - started)
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "clients": clients,
        "texts/s": round(rate, 2),
        "of batch rate": round(rate / batch_rate, 3),
        "p50 ms": round(cuts[49], 1),
        "p95 ms": round(cuts[94], 1),
        "p99 ms": round(cuts[98], 1),
        "p50 ms above queue and forward": round(statistics.median(above), 1),
    }


_BARE = """
from collections import OrderedDict
import numpy as np
from cog import BaseRunner, Input
from e5.vectors import encode_base64

VECTORS = np.random.default_rng(0).standard_normal((2, 4096), np.float32)

class Bare(BaseRunner):
    async def run(self, encoding_format: str = Input(default="float")) -> dict:
        if encoding_format == "base64":
            return OrderedDict(embeddings_base64=[encode_base64(row) for row in VECTORS])
        return OrderedDict(embeddings=VECTORS.tolist())
"""


def answer_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds over HTTP above the forward, for two vectors of the 7B model's width.

    Beside them Cog alone: a predictor that computes nothing and gives an answer of the same size.
    """
    texts = {"query": "what is snow", "document": "frozen water"}
    device = choose_device(arguments.device)
    with (
        saved_checkpoint(arguments, layers=1) as weights,
        serve(E5_WEIGHTS=str(weights.resolve()), E5_DEVICE=str(device)) as predict,
    ):
        rows = [_above(predict, "this service", texts, form) for form in ("float", "base64")]
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(_BARE)
        with serve(f"{bare}:Bare") as predict:
            rows += [_above(predict, "Cog alone", {}, form) for form in ("float", "base64")]
    return rows


def _above(
    predict: Predict, system: str, inputs: dict[str, str], encoding_format: str
) -> dict[str, Any]:
    above = []
    for _ in range(100):
        started = time.perf_counter()
        answer = predict(inputs | {"encoding_format": encoding_format})
        total = (time.perf_counter() - started) * 1e3
        above.append(total - answer["metrics"].get("forward_ms", 0))
    cuts = statistics.quantiles(above[20:], n=20)
    return {
        "system": system,
        "encoding_format": encoding_format,
        "p50 ms": round(cuts[9], 2),
        "p95 ms": round(cuts[18], 2),
    }
