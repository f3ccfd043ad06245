"""The benchmark: our engine, its peers and the machine's ceiling, side by side in one run.

    ./scripts/benchmark --threads 1 --out docs/benchmarks/cpu-engine

The model has random weights in the 7B model's layer shapes, or is a real checkpoint. Random models
have 32 layers on CUDA and 8 on a CPU, so that the saving in the last layer does not weigh too much.

    engine    texts/s compared with sentence-transformers, padded pairs and bare matrix products
    fidelity  agreement with the unmodified, padded float32 model
    growth    cost per token from 10 to 10,000 texts
    launches  the forward with kernels launched one by one, by CUDA graphs, and compiled
    loading   peak memory while a checkpoint is loaded
    neighbours  the engine beside busy processes, by how long OpenMP's threads spin
    start     seconds from the command to the first answer, by stage
    http      throughput and latency over HTTP, 1 to 128 clients
    gateway   requests per second of one text, compared with scripts/serve and Cog; needs wrk
    crowd     up to 256 clients with one query each, by the gateway and by Cog (--engine)
    repeats   the same with queries that come again, with E5_CACHE_MB and without (--engine)
    answers   the time of an answer above that of the forward
    fairness  small requests beside large ones
    soak      memory and folders of the server over 100,000 requests (--requests)
    peaks     memory of the worker while each kind of large request is answered
    faults    how many answers are wrong after faults of clients and of the server
    corpus    scripts/embed_corpus from 1,000 to 100,000 documents
    share     the rate of embedding a corpus as a share of the engine's own
    reuse     runs over a corpus that changes
    long      documents of many characters
    search    recall, size and milliseconds of an index
    million   the same for a million made-up vectors
    card      what matters of a borrowed card, in nine minutes; cannot be combined with others

Where nothing can be installed, `PYTHONPATH=scripts:. python -m benchmarks` runs the first three
with torch, transformers, pydantic and psutil alone. Without sentence-transformers the peer's rows
are left out, and without matplotlib the plot.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.card import run_card
from benchmarks.machine import machine_facts
from benchmarks.other_processes import OtherProcesses, busy_machine_message
from benchmarks.rounds import ROUNDS
from benchmarks.tables import print_table

# The module and the function of each section. The modules need different packages, so only those of
# the chosen sections are imported.
SECTIONS = {
    "engine": "engine.engine_rows",
    "fidelity": "engine.fidelity_rows",
    "growth": "engine.growth_rows",
    "launches": "launches.launch_rows",
    "loading": "loading.loading_rows",
    "neighbours": "busy_neighbours.neighbour_rows",
    "start": "loading.start_rows",
    "http": "http_latency.http_rows",
    "gateway": "gateway_rates.gateway_rows",
    "crowd": "many_clients.many_clients_rows",
    "repeats": "many_clients.repeats_rows",
    "answers": "http_latency.answer_rows",
    "fairness": "endurance.fairness_rows",
    "soak": "endurance.soak_rows",
    "peaks": "memory_peaks.peak_rows",
    "faults": "faults.fault_rows",
    "corpus": "corpora.corpus_rows",
    "share": "corpora.share_rows",
    "reuse": "corpus_updates.reuse_rows",
    "long": "corpus_updates.long_rows",
    "search": "corpora.search_rows",
    "million": "corpora.million_rows",
}
CARD = "card"


def main() -> int:
    """Run the chosen sections; print tables, write JSON, draw the plot."""
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections", default="engine", help="names separated by commas; default engine"
    )
    parser.add_argument("--device", help="cpu or cuda; default CUDA if there is a card")
    parser.add_argument(
        "--layers", type=int, help="layers of the random weights, for engine and http"
    )
    parser.add_argument("--weights", help="a checkpoint folder instead of random weights")
    parser.add_argument(
        "--engine",
        choices=("real", *(f"simulated:{name}" for name in ("a40", "half-h100", "h100", "free"))),
        default="real",
        help="for crowd and repeats: compute, or take the time that a card would take, or no time",
    )
    parser.add_argument(
        "--clients", default="1,16,64,256", help="for crowd and repeats: numbers of clients"
    )
    parser.add_argument(
        "--requests", type=int, default=100_000, help="number of requests, for soak and faults"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of the engine and of the server")
    parser.add_argument(
        "--workloads", help="names separated by commas: run only these (parts of card)"
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"number of rounds, at least {ROUNDS}"
    )
    parser.add_argument("--out", type=Path, help="write the files OUT.json and OUT.png")
    arguments = parser.parse_args()
    if arguments.sections == CARD:
        return run_card(arguments)
    unknown = set(arguments.sections.split(",")) - SECTIONS.keys()
    if unknown:
        known = f"{', '.join(SECTIONS)}, or {CARD} alone"
        parser.error(f"--sections: received {', '.join(unknown)}; use {known}")
    if arguments.rounds < ROUNDS:
        parser.error(f"--rounds: received {arguments.rounds}; use {ROUNDS} or more")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for the server's worker as well
    others = OtherProcesses()
    time.sleep(2)
    _exit_if_busy(others)
    report: dict[str, Any] = {"machine": machine_facts(arguments)}
    print(json.dumps(report["machine"]))
    for section in arguments.sections.split(","):
        print(f"\n{section}")
        others = OtherProcesses()
        module, function = SECTIONS[section].split(".")
        rows_of = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        report[section] = list(rows_of(arguments))
        _exit_if_busy(others)
        print_table(report[section])
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        _plot(report, arguments.out.with_suffix(".png"))
    return 0


def _exit_if_busy(others: OtherProcesses) -> None:
    if message := busy_machine_message(others.cores()):
        sys.exit(message)


def _plot(report: dict[str, Any], path: Path) -> None:
    """Plot the throughput of all systems by workload, and of the server by clients."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plot", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {"engine": _plot_engine, "http": _plot_http}
    shown = [section for section in panels if section in report]
    if not shown:
        return
    figure, axes = plt.subplots(1, len(shown), figsize=(8 * len(shown), 5), squeeze=False)
    for section, axis in zip(shown, axes[0], strict=True):
        panels[section](report[section], axis)
        axis.legend(fontsize=7)
    machine = report["machine"]
    figure.suptitle(
        f"{machine['name']}, threads: {machine['threads']}, {machine['dtype']}, {machine['date']}"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _plot_engine(rows: list[dict[str, Any]], axis: Any) -> None:
    rows = [row for row in rows if "tokens/s" in row]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    height = 0.8 / len(systems)
    for i, system in enumerate(systems):
        rates = {row["workload"]: row["tokens/s"] for row in rows if row["system"] == system}
        positions = [w + i * height for w, name in enumerate(workloads) if name in rates]
        axis.barh(positions, list(rates.values()), height, label=system)
    axis.set_yticks([w + 0.4 for w in range(len(workloads))], workloads)
    axis.invert_yaxis()
    axis.set_xlabel("tokens/s, of the texts as sent")


def _plot_http(rows: list[dict[str, Any]], axis: Any) -> None:
    measured = [row for row in rows if isinstance(row["clients"], int)]
    clients, rates = [row["clients"] for row in measured], [row["texts/s"] for row in measured]
    axis.plot(clients, rates, "o-", label="over HTTP")
    batch = next(row["texts/s"] for row in rows if row["clients"] == "engine, batch of 64")
    axis.axhline(batch, linestyle="--", label="the engine's own batch rate")
    axis.set_xscale("log", base=2)
    axis.set_xticks(clients, clients)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("clients, one text each")
    axis.set_ylabel("texts/s")


if __name__ == "__main__":
    sys.exit(main())
