"""The engine beside processes that take its cores, by how long OpenMP's threads spin."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.models import MINI, saved_checkpoint
from benchmarks.rounds import Times
from benchmarks.texts import real_texts

# GOMP_SPINCOUNT and the number of threads (the empty one: as many as cores) of each system.
# 300,000 is GNU OpenMP's own count; 0 is OMP_WAIT_POLICY=passive.
SYSTEMS = {
    "spins 300,000": ("300000", ""),
    "spins 100,000": ("100000", ""),
    "spins 10,000": ("10000", ""),
    "spins 1,000": ("1000", ""),
    "spins 0": ("0", ""),
    "one thread": ("0", "1"),
}
NEIGHBOURS = (0, 2, 6)
SECONDS = 0.5  # of each system in each round
_NEIGHBOUR = "while True: pass"
_ENGINE = """
import sys, time
from e5 import Embedder, Settings
threads = int(sys.argv[2]) if sys.argv[2] else None
embedder = Embedder.load(Settings(weights=sys.argv[1], device="cpu", threads=threads))
texts = sys.stdin.readline().split("\\t")
for line in sys.stdin:
    calls, started = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - started < float(line):
        embedder.encode_document(texts)
        calls += 1
    print((time.perf_counter() - started) / calls, flush=True)
"""


def neighbour_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Texts a second by spin count, beside processes that never wait.

    Each system is a process, because OpenMP reads its environment once. They take turns.
    """
    rows = []
    with saved_checkpoint(arguments, layers=2) as large:
        for name, folder, count in (("built-in", MINI, 32), ("7B shapes, 2 layers", large, 4)):
            with _engines(folder, real_texts(count)) as engines:
                for neighbours in NEIGHBOURS:
                    with _busy(neighbours):
                        times = _side_by_side(engines, arguments.rounds)
                    default = times["spins 300,000"]
                    rows += [
                        {
                            "weights": name,
                            "neighbours": neighbours,
                            "system": system,
                            "texts/s": round(count / each.median, 1),
                            "times as fast as with 300,000": round(each.ratio(default), 3),
                            "spread": each.columns()["spread"],
                        }
                        for system, each in times.items()
                    ]
    return rows


@contextmanager
def _engines(folder: Path, texts: list[str]) -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """Start a process of each system, which computes the texts when it is asked."""
    with ExitStack() as stack:
        engines = {}
        for system, (spins, threads) in SYSTEMS.items():
            engines[system] = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _ENGINE, str(folder), threads],
                    env=os.environ | {"GOMP_SPINCOUNT": spins},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(engines[system].kill)
            _send(engines[system], "\t".join(texts))
        yield engines


@contextmanager
def _busy(neighbours: int) -> Iterator[None]:
    """Run processes that never wait."""
    running = [subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) for _ in range(neighbours)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _side_by_side(engines: dict[str, "subprocess.Popen[str]"], rounds: int) -> dict[str, Times]:
    """Seconds a call of each system in each round, after a warm-up."""
    times = {system: Times() for system in engines}
    order = list(engines)
    for number in tqdm(range(-1, rounds), "rounds", leave=False):
        first = number % len(order)
        for system in order[first:] + order[:first]:
            _send(engines[system], str(SECONDS))
            answer = engines[system].stdout
            assert answer is not None
            seconds = float(answer.readline())
            if number >= 0:
                times[system].seconds.append(seconds)
    return times


def _send(engine: "subprocess.Popen[str]", line: str) -> None:
    assert engine.stdin is not None
    print(line, file=engine.stdin, flush=True)
