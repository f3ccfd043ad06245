"""The step about speed: the engine, sentence-transformers and the card's ceiling.

The rows are those of the benchmark. On a CPU they are figures without a bound.
"""

import argparse
from collections.abc import Sequence

import torch

from acceptance.candidate import Candidate
from acceptance.lines import Line, at_least, not_run
from benchmarks.engine import CEILING, OURS, engine_rows
from benchmarks.machine import measured_ceilings
from benchmarks.other_processes import OtherProcesses

WORKLOADS = (
    "one pair",
    "32 queries",
    "32 documents of lognormal length (draw 1)",
    "8 documents of 256",
    "4 documents of 512",
)
PEER = "sentence-transformers"


def speed(candidate: Candidate) -> Sequence[Line]:
    """Measure latency and throughput by workload, and the ratio to the peer's best batch size."""
    if not candidate.packed:
        return [not_run("our own engine beside others", f"the engine is {candidate.engine}")]
    others = OtherProcesses()
    workloads = WORKLOADS if candidate.on_a_card else WORKLOADS[:2]
    ceilings = measured_ceilings(torch.device(candidate.device))
    lines = [
        Line("largest matrix product", f"{ceilings['matmul TFLOP/s']:g} TFLOP/s"),
        Line("copy", f"{ceilings['copy TB/s']:g} TB/s"),
    ]
    arguments = argparse.Namespace(
        weights=str(candidate.weights),
        device=candidate.device,
        layers=None,
        workloads=",".join(workloads),
        rounds=candidate.workload.rounds,
    )
    rows = list(engine_rows(arguments))
    for workload in workloads:
        by_system = {row["system"]: row for row in rows if row["workload"] == workload}
        ours = by_system[OURS]
        share = f"{ours['% of ceiling']:g} % of {CEILING.partition(': ')[2]}"
        rate = f"{ours['ms']:g} ms, {ours['tokens/s']:g} tokens/s, {share}, spread {ours['spread']}"
        lines.append(Line(workload, rate))
        peers = [row["ours is faster by"] for system, row in by_system.items() if PEER in system]
        what = f"{workload}: times as fast as {PEER} at its best batch size"
        if not peers:
            lines.append(not_run(what, f"{PEER} is not installed"))
        elif candidate.on_a_card:
            lines.append(at_least(what, min(peers), 1))
        else:
            lines.append(Line(what, f"{min(peers):g}"))
    return [*lines, Line("cores that other processes took meanwhile", f"{others.cores():.2f}")]
