"""Measures in nine minutes what matters of a card that is borrowed for a quarter of an hour.

    ./scripts/benchmark --sections card --out FILE

Each part runs in a process of its own, which is ended when the part's time is over. The file is
written after each row. A part that fails says why, and the others go on; a part that is ended keeps
the rows that it has printed. Weights are random, in the 7B model's shapes, and made on the device.
On a CPU everything is small: that rehearses the run, and its figures mean nothing.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.other_processes import OtherProcesses
from benchmarks.tables import print_table

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 540.0  # of all parts together
LEAST_SECONDS = 20.0  # with less left no part is begun
LOG_LINES = 40


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        seconds: after which it is ended.
        command: prints a row as a line of JSON whenever it has one.
    """

    seconds: float
    command: Sequence[str]


# In this order; the first ones decide most.
SECONDS_BY_PART = {
    "machine": 45,
    "profile": 110,
    "products": 40,
    "launches": 100,
    "streaming": 100,
    "tests": 150,
    "engines": 110,
    "doors": 120,
}


def run_card(arguments: argparse.Namespace) -> int:
    """Run all parts, or those that `--workloads` names; return 0 if each is complete."""
    names = arguments.workloads.split(",") if arguments.workloads else list(SECONDS_BY_PART)
    if unknown := set(names) - SECONDS_BY_PART.keys():
        known = ", ".join(SECONDS_BY_PART)
        sys.exit(f"--workloads: received {', '.join(sorted(unknown))}; use {known}")
    if not arguments.device and not torch.cuda.is_available():
        sys.exit("--sections card: torch finds no card; --device cpu rehearses the run")
    options = json.dumps({"device": arguments.device or "cuda", "rounds": arguments.rounds})
    command = [sys.executable, "-m", "benchmarks.card_parts", options]
    parts = {name: Part(SECONDS_BY_PART[name], [*command, name]) for name in names}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with its children
    out = arguments.out or Path(f"card-{time.strftime('%Y-%m-%d-%H%M')}")
    file = out.with_suffix(".json")
    print(
        f"{len(parts)} parts, at most {SECONDS / 60:g} minutes; after each row: {file}", flush=True
    )
    report = run_parts(parts, file)
    return 0 if all(part["result"] == "complete" for part in report.values()) else 1


def run_parts(
    parts: Mapping[str, Part], file: Path, *, seconds: float = SECONDS
) -> dict[str, dict[str, Any]]:
    """Run parts one after the other, and write what they print to a file of JSON.

    Args:
        parts: in order.
        file: is replaced after each row.
        seconds: of all parts together; a part for which no time is left is not begun.

    Returns:
        For each part its `rows`, its `result` (`complete`, or why it is not) and its `seconds`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + seconds
    for name, part in parts.items():
        entry = report[name] = {"result": "running", "rows": []}

        def keep(row: Mapping[str, Any], entry: dict[str, Any] = entry) -> None:
            entry["rows"].append(row)
            _write(file, report)

        _write(file, report)
        started, others = time.monotonic(), OtherProcesses()
        print(f"\n{name}", flush=True)
        left = min(part.seconds, end - started)
        if left < min(LEAST_SECONDS, part.seconds):
            entry["result"] = f"not begun: the {seconds:g} s are over"
        else:
            entry["result"], log = _run(part.command, left, keep)
            if entry["result"] != "complete":
                entry["log"] = log
        entry["seconds"] = round(time.monotonic() - started, 1)
        entry["other processes' cores"] = round(others.cores(), 2)
        _write(file, report)
        print_table(entry["rows"])
        print(f"{entry['result']}, {entry['seconds']:g} s", flush=True)
    return report


def _run(
    command: Sequence[str], seconds: float, keep: Callable[[Mapping[str, Any]], None]
) -> tuple[str, list[str]]:
    """Run a command for some seconds at most.

    Returns:
        `complete` or what went wrong, and the last lines of its log.
    """
    over = threading.Event()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        ) as process,
    ):

        def stop() -> None:
            over.set()
            _kill_group(process.pid)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                with suppress(ValueError):  # half a line, of a process that was ended
                    keep(json.loads(line))
            code = process.wait()
        finally:
            timer.cancel()
            _kill_group(process.pid)  # the servers and tests that it has begun
        log.seek(0)
        lines = re.sub(r".*\r", "", log.read()).replace(str(ROOT), ".").splitlines()
    last = lines[-LOG_LINES:]
    if over.is_set():
        return f"ended after {seconds:.0f} s", last
    return "complete" if code == 0 else f"ended with {code}: {last[-1] if last else ''}", last


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _write(file: Path, report: Mapping[str, Any]) -> None:
    """Write the report whole, so that there is never half a file."""
    new = file.with_name(f".{file.name}")
    new.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(new, file)
