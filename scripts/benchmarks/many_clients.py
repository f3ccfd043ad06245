"""Many clients over HTTP, with one query each under one task, by the gateway and by Cog.

They are compared with what the engine alone can do with such queries at most. With
`--engine simulated:a40`, `half-h100` or `h100` the engine takes the time of a card instead of
computing: that is a SIMULATION, and every row says so. With `--engine simulated:free` it takes no
time, and what is left is the service's own.

All processes may use all cores, those of the load as well: a service of several processes is
measured as one process is.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from tqdm import tqdm

from benchmarks.load_generator import ALL_DIFFERENT
from benchmarks.machine import child
from benchmarks.models import MINI
from benchmarks.server import running
from benchmarks.simulated import simulation
from e5.device import choose_device

SECONDS = 5
# Of the section `repeats`: different queries, of which that of rank n is asked n times as rarely as
# the first.
REPEATED_QUERIES = 100_000
CACHE_MB = 256
# The rates of the engine alone: with as many queries as the batcher puts together, and with one.
_ENGINE_ALONE = """
import sys, time
from itertools import cycle
from benchmarks.load_generator import queries
from e5.embedder import Embedder
from e5.settings import Settings
embedder = Embedder.load(Settings.from_env())
texts = [query for query, _ in zip(queries(), range(2048))]
ids = [each.token_ids for each in embedder.tokenize(texts)]
def rate(size, seconds=float(sys.argv[1])):
    parts = cycle([ids[i : i + size] for i in range(0, len(ids), size)])
    embedder.compute(next(parts))
    started, texts = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        texts += len(embedder.compute(next(parts)).vectors)
    return texts / (time.perf_counter() - started)
print(rate(256), rate(1))
"""


@dataclass(frozen=True)
class Door:
    """A way to the service.

    Attributes:
        module: of its server.
        arguments: of the server's command.
        path: of a request.
        text_field: where the text is in a request's body.
        body: the rest of it, as JSON.
        cache_mb: of the server; 0: none.
    """

    module: str = "e5"
    arguments: tuple[str, ...] = ("gateway",)
    path: str = "/v1/embeddings"
    text_field: str = "input"
    body: str = '{"model": "NAME-query", "encoding_format": "base64"}'
    cache_mb: int = 0


def _processes(engines: int, fronts: int) -> Door:
    return Door(arguments=("gateway", f"--engines={engines}", f"--fronts={fronts}"))


GATEWAY = "gateway"
COG = Door(
    "cog.server.http",
    (),
    "/predictions",
    "input.query",
    '{"input": {"encoding_format": "base64"}}',
)
ONE_PROCESS_DOORS = {GATEWAY: Door(), "Cog": COG}
DOORS = {
    GATEWAY: Door(),
    "gateway, 1 engine and 1 front": _processes(1, 1),
    "gateway, 1 engine and 2 fronts": _processes(1, 2),
    "gateway, 2 engines and 2 fronts": _processes(2, 2),
    "Cog": COG,
}
CACHE_DOORS = {
    GATEWAY: Door(),
    f"gateway, E5_CACHE_MB={CACHE_MB}": Door(cache_mb=CACHE_MB),
}


def many_clients_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Texts per second, latency, and the share of the engine's own rate: medians of the rounds."""
    return _rows(arguments, DOORS, ALL_DIFFERENT)


def repeats_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The same for queries that come again as Zipf's law says, with a cache and without."""
    return _rows(arguments, CACHE_DOORS, REPEATED_QUERIES)


def _rows(
    arguments: argparse.Namespace, doors: dict[str, Door], num_queries: int
) -> list[dict[str, Any]]:
    """Measure the doors in turns; `num_queries` is that of `load_generator.queries`."""
    engine = arguments.engine.removeprefix("simulated:")
    label = "real" if engine == "real" else f"SIMULATED {engine}"
    weights = Path(arguments.weights or MINI).resolve()
    environment = _environment(weights, engine, arguments.device)
    batch_rate, single_rate = map(float, child(_ENGINE_ALONE, SECONDS / 2, **environment).split())
    rows: list[dict[str, Any]] = [
        {"engine": label, "door": "the engine alone", "clients": "256 texts a call"}
        | {"texts/s": round(batch_rate, 1)},
        {"engine": label, "door": "the engine alone", "clients": "1 text a call"}
        | {"texts/s": round(single_rate, 1), "p50 ms": round(1e3 / single_rate, 2)},
    ]
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(_server(door, environment)) for name, door in doors.items()
        }
        for clients in map(int, arguments.clients.split(",")):
            results: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
            order = [name for _ in range(arguments.rounds) for name in urls]
            for name in tqdm(order, f"{clients} clients", leave=False):
                door, url = doors[name], urls[name]
                before = _cached(url) if door.cache_mb else 0
                result = _load(url, door, clients, weights.name, num_queries)
                if door.cache_mb:
                    result["cached"] = (_cached(url) - before) / result["answered"]
                results[name].append(result)
            for name in urls:
                rows.append({"engine": label, "door": name, "clients": clients})
                rows[-1] |= _summary(results[name], results[GATEWAY])
                if engine != "free":
                    rows[-1]["of the engine's most"] = round(rows[-1]["texts/s"] / batch_rate, 3)
    return rows


def rows_of_each_door(
    engine: str, device: str | None, *, clients: Sequence[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """The same of the gateway and of Cog one after the other: a card may not hold both."""
    environment = _environment(MINI, engine, device)
    for name, door in ONE_PROCESS_DOORS.items():
        started = time.perf_counter()
        with _server(door, environment) as url:
            ready = round(time.perf_counter() - started, 1)
            for count in clients:
                found = _load(url, door, count, MINI.name, ALL_DIFFERENT, seconds)
                figures = {key: round(figure, 2) for key, figure in found.items()}
                yield {"door": name, "ready after s": ready, "clients": count, **figures}


def _environment(weights: Path, engine: str, device: str | None) -> dict[str, str]:
    found = {"E5_WEIGHTS": str(weights), "E5_DEVICE": str(choose_device(device))}
    return found | simulation(engine)


def _server(door: Door, environment: Mapping[str, str]) -> AbstractContextManager[str]:
    cache = {"E5_CACHE_MB": str(door.cache_mb)}
    return running(module=door.module, arguments=door.arguments, **environment, **cache)


def _cached(url: str) -> float:
    """The number of texts that a gateway answered from its cache."""
    metrics = httpx2.get(f"{url}/metrics", trust_env=False).text
    found = re.search(r"^e5_gateway_cache_hits_total(?:{.*})? (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _load(
    url: str, door: Door, clients: int, name: str, num_queries: int, seconds: float = SECONDS
) -> dict[str, float]:
    """Run one round of one door."""
    code = "from benchmarks.load_generator import main; main()"
    body = door.body.replace("NAME", name)
    printed = child(code, url + door.path, door.text_field, clients, seconds, body, num_queries)
    result: dict[str, float] = json.loads(printed)
    if result["failed"]:
        print(f"{url}: {result['failed']} requests failed", file=sys.stderr)
    return result


def _summary(rounds: list[dict[str, float]], gateway: list[dict[str, float]]) -> dict[str, Any]:
    rates = [result["texts/s"] for result in rounds]
    ratios = [rate / one["texts/s"] for rate, one in zip(rates, gateway, strict=True)]
    summary = {
        "texts/s": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "greatest": round(max(rates), 1),
        "x gateway": round(statistics.median(ratios), 2),
        "p50 ms": round(statistics.median(result["p50 ms"] for result in rounds), 2),
        "p99 ms": round(statistics.median(result["p99 ms"] for result in rounds), 2),
        "failed": sum(result["failed"] for result in rounds),
    }
    if "cached" in rounds[0]:
        summary["cached"] = round(statistics.median(result["cached"] for result in rounds), 3)
    return summary
