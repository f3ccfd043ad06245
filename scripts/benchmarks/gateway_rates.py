"""Requests of one short text per second: the gateway, scripts/serve, and Cog without a model.

All of them run over an engine that takes no time, on one core; wrk sends requests from another.
No two texts of a round are equal: tokenizers remember what they have read.
Each round measures every system, so that changes in the machine's speed affect all of them.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import pinned
from benchmarks.models import ROOT
from benchmarks.rounds import ROUNDS
from benchmarks.server import running
from benchmarks.simulated import simulation

CONNECTIONS = (1, 16, 64)
SECONDS = 3
GATEWAY, SERVE, EMPTY = "gateway", "scripts/serve", "empty Cog predictor"
NUMBER = "%06d"  # in a body: of the request, from 1 on
TEXT = f"what is the weather like at the weekend in town {NUMBER}"
COG_BODY = {"input": {"query": TEXT, "encoding_format": "base64"}}
# The path and the body of each system's requests.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    GATEWAY: (
        "/v1/embeddings",
        {"model": "e5-mini-query", "input": TEXT, "encoding_format": "base64"},
    ),
    SERVE: ("/predictions", COG_BODY),
    EMPTY: ("/predictions", COG_BODY),
}


def gateway_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:  # noqa: ARG001
    """Median, least and greatest of the rounds, and the median ratios to the two others.

    Raises:
        SystemExit: wrk is not installed, or there is no second core for it.
    """
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("found one core; wrk needs a second one, apart from the servers")
    empty = f"{Path(__file__).with_name('empty_predictor.py').relative_to(ROOT)}:EmptyPredictor"
    environment = {
        "E5_WEIGHTS": "weights/e5-mini",
        "E5_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        **simulation("free"),
    }
    results: dict[tuple[int, str], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        with pinned(cores[:1]):
            urls = {
                GATEWAY: stack.enter_context(
                    running(module="e5", arguments=["gateway"], **environment)
                ),
                SERVE: stack.enter_context(running(**environment)),
                EMPTY: stack.enter_context(running(empty, **environment)),
            }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        order = [(c, s, r) for c in CONNECTIONS for r in range(ROUNDS + 1) for s in urls]
        with pinned(cores[-1:]):
            for connections, system, number in tqdm(order, desc="gateway", leave=False):
                result = _run_wrk(urls[system], system, connections, folder)
                if number:  # round 0 is a warm-up
                    results.setdefault((connections, system), []).append(result)
    return [
        _summary(
            connections, system, rounds, results[connections, SERVE], results[connections, EMPTY]
        )
        for (connections, system), rounds in results.items()
    ]


def _run_wrk(url: str, system: str, connections: int, folder: Path) -> dict[str, float]:
    """Run one round of one system."""
    path, body = REQUESTS[system]
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        "local number = 0\n"
        "function request()\n"
        "  number = number + 1\n"
        f"  return wrk.format(nil, nil, nil, string.format([[{json.dumps(body)}]], number))\n"
        "end\n"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(script)]
    done = subprocess.run([*command, url + path], capture_output=True, text=True, check=True)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    sent = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout)
    if sent is None:
        raise RuntimeError(f"wrk printed no number of requests:\n{done.stdout}")
    answered = int(sent[1]) - (int(failed[1]) if failed else 0)
    return {
        "requests/s": answered / float(sent[2]),
        "p50 ms": _milliseconds(done.stdout, "50%"),
        "p99 ms": _milliseconds(done.stdout, "99%"),
    }


def _milliseconds(output: str, percentile: str) -> float:
    """Read a percentile of the latency from wrk's output."""
    found = re.search(rf"{percentile} +([\d.]+)(us|ms|s)", output)
    assert found is not None, output
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _summary(
    connections: int,
    system: str,
    rounds: list[dict[str, float]],
    serve: list[dict[str, float]],
    empty: list[dict[str, float]],
) -> dict[str, Any]:
    rates = [result["requests/s"] for result in rounds]

    def ratio(others: list[dict[str, float]]) -> float:
        pairs = zip(rates, others, strict=True)
        return round(statistics.median(rate / other["requests/s"] for rate, other in pairs), 2)

    return {
        "connections": connections,
        "system": system,
        "requests/s": round(statistics.median(rates)),
        "least": round(min(rates)),
        "greatest": round(max(rates)),
        "x scripts/serve": ratio(serve),
        "x empty": ratio(empty),
        "p50 ms": round(statistics.median(result["p50 ms"] for result in rounds), 2),
        "p99 ms": round(statistics.median(result["p99 ms"] for result in rounds), 2),
    }
