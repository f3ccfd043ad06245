"""Many clients over HTTP, with one query each under one task, by the gateway and by Cog.

They are compared with what the engine alone can do with such queries at most. With
`--engine simulated:a40` or `simulated:h100` the engine takes the time of a card instead of
computing: that is a SIMULATION, and every row says so.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import child, pinned
from benchmarks.models import MINI, ROOT
from benchmarks.server import running
from e5.device import choose_device

CLIENTS = (1, 16, 64, 256)
SECONDS = 5
# The path, the field of the text, and the rest of the body of each system's requests.
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gateway": (
        "/v1/embeddings",
        "input",
        {"model": "{name}-query", "encoding_format": "base64"},
    ),
    "Cog": ("/predictions", "input.query", {"input": {"encoding_format": "base64"}}),
}
# The rates of the engine alone: with as many queries as the batcher puts together, and with one.
_ENGINE_ALONE = """
import sys, time
from benchmarks.load_generator import query
from benchmarks.simulated import embedder_of
embedder = embedder_of(sys.argv[1])
texts = [query(number) for number in range(256)]
ids = [each.token_ids for each in embedder.tokenize(texts)]
def rate(ids, seconds=3):
    embedder.compute(ids)
    started, calls = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        embedder.compute(ids)
        calls += 1
    return calls * len(ids) / (time.perf_counter() - started)
print(rate(ids), rate(ids[:1]))
"""


def many_clients_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Texts per second, latency, and the share of the engine's own rate: medians of the rounds."""
    engine = arguments.engine.removeprefix("simulated:")
    label = "real" if engine == "real" else f"SIMULATED {engine}"
    weights = Path(arguments.weights or MINI).resolve()
    environment = _environment(weights, engine, arguments.device)
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    with pinned(cores[:half]):
        batch_rate, single_rate = map(float, child(_ENGINE_ALONE, engine, **environment).split())
    rows: list[dict[str, Any]] = [
        {"engine": label, "door": "the engine alone", "clients": "256 texts a call"}
        | {"texts/s": round(batch_rate, 1)},
        {"engine": label, "door": "the engine alone", "clients": "1 text a call"}
        | {"texts/s": round(single_rate, 1), "p50 ms": round(1e3 / single_rate, 2)},
    ]
    with ExitStack() as stack:
        with pinned(cores[:half]):
            urls = {
                system: stack.enter_context(_server(system, environment)) for system in REQUESTS
            }
        for clients in CLIENTS:
            results: dict[str, list[dict[str, float]]] = {system: [] for system in urls}
            order = [system for _ in range(arguments.rounds) for system in urls]
            with pinned(cores[half:] or cores):
                for system in tqdm(order, f"{clients} clients", leave=False):
                    results[system].append(_load(urls[system], system, clients, weights.name))
            for system in urls:
                rows.append({"engine": label, "door": system, "clients": clients})
                rows[-1] |= _summary(results[system], batch_rate)
    return rows


def rows_of_each_door(
    engine: str, device: str | None, *, clients: Sequence[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """The same of one system after the other, because a card may not hold the model twice."""
    environment, cores = _environment(MINI, engine, device), sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    for system in REQUESTS:
        with ExitStack() as stack:
            started = time.perf_counter()
            with pinned(cores[:half]):
                url = stack.enter_context(_server(system, environment))
            ready = round(time.perf_counter() - started, 1)
            stack.enter_context(pinned(cores[half:] or cores))
            for count in clients:
                found = _load(url, system, count, MINI.name, seconds)
                figures = {name: round(figure, 2) for name, figure in found.items()}
                yield {"door": system, "ready after s": ready, "clients": count, **figures}


def _environment(weights: Path, engine: str, device: str | None) -> dict[str, str]:
    return {
        "E5_WEIGHTS": str(weights),
        "E5_DEVICE": str(choose_device(device)),
        "SIMULATED": engine,
        "PYTHONPATH": os.pathsep.join(["scripts", ".", os.environ.get("PYTHONPATH", "")]),
    }


def _server(system: str, environment: dict[str, str]) -> AbstractContextManager[str]:
    if system == "gateway":
        return running(module="benchmarks.simulated", **environment)
    stub = f"{Path(__file__).with_name('simulated.py').relative_to(ROOT)}:SimulatedPredictor"
    return running(stub, **environment)


def _load(
    url: str, system: str, clients: int, name: str, seconds: float = SECONDS
) -> dict[str, float]:
    """Run one round of one system."""
    path, field, body = REQUESTS[system]
    code = "from benchmarks.load_generator import main; main()"
    printed = child(
        code, url + path, field, clients, seconds, json.dumps(body).replace("{name}", name)
    )
    result: dict[str, float] = json.loads(printed)
    if result["failed"]:
        print(f"{system}: {result['failed']} requests failed", file=sys.stderr)
    return result


def _summary(rounds: list[dict[str, float]], engine_rate: float) -> dict[str, Any]:
    rates = [result["texts/s"] for result in rounds]
    return {
        "texts/s": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "greatest": round(max(rates), 1),
        "of the engine's most": round(statistics.median(rates) / engine_rate, 3),
        "p50 ms": round(statistics.median(result["p50 ms"] for result in rounds), 2),
        "p99 ms": round(statistics.median(result["p99 ms"] for result in rounds), 2),
        "failed": sum(result["failed"] for result in rounds),
    }
