"""A crowd over HTTP: clients with one query each under one task, by the gateway and by Cog.

Against what the engine alone can do with such queries at most. `--engine simulated:a40` or
`simulated:h100` spends a card's time instead of computing: a SIMULATION, labelled so in every row.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import child
from benchmarks.server import running
from benchmarks.subjects import MINI, ROOT
from e5.device import choose_device

CLIENTS = (1, 16, 64, 256)
SECONDS = 5
ASKED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gateway": (
        "/v1/embeddings",
        "input",
        {"model": "{name}-query", "encoding_format": "base64"},
    ),
    "Cog": ("/predictions", "input.query", {"input": {"encoding_format": "base64"}}),
}
# What the engine can do: queries of the load's kind, as many as the batcher puts together.
_ALONE = """
import sys, time
from benchmarks.load import query
from benchmarks.simulated import embedder_of
embedder = embedder_of(sys.argv[1])
texts = [query(number) for number in range(256)]
ids = [encoding.token_ids for encoding in embedder.tokenize(texts)]
def rate(ids, seconds=3):
    embedder.compute(ids)
    started, calls = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        embedder.compute(ids)
        calls += 1
    return calls * len(ids) / (time.perf_counter() - started)
print(rate(ids), rate(ids[:1]))
"""


def crowd_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Texts a second, latency, and the share of the engine's own rate, the median of rounds."""
    engine = arguments.engine.removeprefix("simulated:")
    label = "real" if engine == "real" else f"SIMULATED {engine}"
    weights = Path(arguments.weights or MINI).resolve()
    environment = {
        "E5_WEIGHTS": str(weights),
        "E5_DEVICE": str(choose_device(arguments.device)),
        "SIMULATED": engine,
        "PYTHONPATH": os.pathsep.join(["scripts", ".", os.environ.get("PYTHONPATH", "")]),
    }
    stub = f"{Path(__file__).with_name('simulated.py').relative_to(ROOT)}:Served"
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    with _on(cores[:half]):
        together, alone = map(float, child(_ALONE, engine, **environment).split())
    rows: list[dict[str, Any]] = [
        {"engine": label, "door": "the engine alone", "clients": "256 texts a call"}
        | {"texts/s": round(together, 1)},
        {"engine": label, "door": "the engine alone", "clients": "1 text a call"}
        | {"texts/s": round(alone, 1), "p50 ms": round(1e3 / alone, 2)},
    ]
    with ExitStack() as stack:
        with _on(cores[:half]):
            urls = {
                "gateway": stack.enter_context(
                    running(module="benchmarks.simulated", **environment)
                ),
                "Cog": stack.enter_context(running(stub, **environment)),
            }
        for clients in CLIENTS:
            told: dict[str, list[dict[str, float]]] = {door: [] for door in urls}
            turns = [door for _ in range(arguments.rounds) for door in urls]
            with _on(cores[half:] or cores):
                for door in tqdm(turns, f"{clients} clients", leave=False):
                    told[door].append(_load(urls[door], door, clients, weights.name))
            for door in urls:
                rows.append({"engine": label, "door": door, "clients": clients})
                rows[-1] |= _summary(told[door], together)
    return rows


def _load(url: str, door: str, clients: int, name: str) -> dict[str, float]:
    path, field, body = ASKED[door]
    code = "from benchmarks.load import main; main()"
    told = child(
        code, url + path, field, clients, SECONDS, json.dumps(body).replace("{name}", name)
    )
    found: dict[str, float] = json.loads(told)
    if found["failed"]:
        print(f"{door}: {found['failed']} requests failed", file=sys.stderr)
    return found


def _summary(rounds: list[dict[str, float]], most: float) -> dict[str, Any]:
    rates = [told["texts/s"] for told in rounds]
    return {
        "texts/s": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "greatest": round(max(rates), 1),
        "of the engine's most": round(statistics.median(rates) / most, 3),
        "p50 ms": round(statistics.median(told["p50 ms"] for told in rounds), 2),
        "p99 ms": round(statistics.median(told["p99 ms"] for told in rounds), 2),
        "failed": sum(told["failed"] for told in rounds),
    }


@contextmanager
def _on(cores: list[int]) -> Iterator[None]:
    """What is started inside stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
