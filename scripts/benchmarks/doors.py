"""Requests of one short text per second: the gateway, scripts/serve, and Cog with nothing in it.

All run over an engine that costs nothing, on one core; wrk asks from another. The systems take
turns in each round, so that the machine's moods fall on all of them.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.rounds import ROUNDS
from benchmarks.server import running
from benchmarks.subjects import ROOT

CONNECTIONS = (1, 16, 64)
SECONDS = 3
GATEWAY, SERVE, EMPTY = "gateway", "scripts/serve", "empty Cog predictor"
COG_BODY = {"input": {"query": "what is snow", "encoding_format": "base64"}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    GATEWAY: (
        "/v1/embeddings",
        {"model": "e5-mini-query", "input": "what is snow", "encoding_format": "base64"},
    ),
    SERVE: ("/predictions", COG_BODY),
    EMPTY: ("/predictions", COG_BODY),
}


def door_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:  # noqa: ARG001
    """Median, least and greatest over the rounds, and the ratio to scripts/serve round by round.

    Raises:
        SystemExit: where wrk is missing, or there is no second core for it.
    """
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("one core only: wrk and the servers would measure each other")
    free = str(Path(__file__).with_name("simulated.py").relative_to(ROOT))
    environment = {
        "E5_WEIGHTS": "weights/e5-mini",
        "E5_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"scripts{os.pathsep}.",
    }
    rates: dict[tuple[int, str], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        with _pinned(cores[0]):
            urls = {
                GATEWAY: stack.enter_context(running(module="benchmarks.simulated", **environment)),
                SERVE: stack.enter_context(running(f"{free}:Served", **environment)),
                EMPTY: stack.enter_context(running(f"{free}:Empty", **environment)),
            }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        turns = [(c, s, r) for c in CONNECTIONS for r in range(ROUNDS + 1) for s in urls]
        with _pinned(cores[-1]):
            for connections, system, number in tqdm(turns, desc="gateway", leave=False):
                row = _asked(urls[system], system, connections, folder)
                if number:  # the first is to warm up
                    rates.setdefault((connections, system), []).append(row)
    return [
        _summary(connections, system, rows, rates[connections, SERVE])
        for (connections, system), rows in rates.items()
    ]


def _asked(url: str, system: str, connections: int, folder: Path) -> dict[str, float]:
    """One round of one system by wrk."""
    path, body = ASKED[system]
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [[{json.dumps(body)}]]\n"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(script)]
    told = subprocess.run([*command, url + path], capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    asked = re.search(r"(\d+) requests in ([\d.]+)s", told)
    if asked is None:
        raise RuntimeError(f"wrk said:\n{told}")
    answered = int(asked[1]) - (int(bad[1]) if bad else 0)
    return {
        "requests/s": answered / float(asked[2]),
        "p50 ms": _milliseconds(told, "50%"),
        "p99 ms": _milliseconds(told, "99%"),
    }


def _milliseconds(told: str, share: str) -> float:
    found = re.search(rf"{share} +([\d.]+)(us|ms|s)", told)
    assert found is not None, told
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _summary(
    connections: int, system: str, rows: list[dict[str, float]], base: list[dict[str, float]]
) -> dict[str, Any]:
    rates = [row["requests/s"] for row in rows]
    ratios = [
        row["requests/s"] / other["requests/s"] for row, other in zip(rows, base, strict=True)
    ]
    return {
        "connections": connections,
        "system": system,
        "requests/s": round(statistics.median(rates)),
        "least": round(min(rates)),
        "greatest": round(max(rates)),
        "x scripts/serve": round(statistics.median(ratios), 2),
        "p50 ms": round(statistics.median(row["p50 ms"] for row in rows), 2),
        "p99 ms": round(statistics.median(row["p99 ms"] for row in rows), 2),
    }


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    """What is started inside stays on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
