"""The speed: the engine beside sentence-transformers and what the card can do at most.

Takes the benchmark's own rows. On a CPU they are figures without a bound.
"""

import argparse
from collections.abc import Sequence

import torch

from acceptance.lines import Line, at_least, not_run
from acceptance.subject import Subject
from benchmarks.engine import CEILING, OURS, engine_rows
from benchmarks.machine import measured_ceilings
from benchmarks.neighbours import Neighbours

WORKLOADS = (
    "one pair",
    "32 queries",
    "32 documents of lognormal length (draw 1)",
    "8 documents of 256",
    "4 documents of 512",
)
PEER = "sentence-transformers"


def speed(subject: Subject) -> Sequence[Line]:
    """Latency and throughput by workload, and the ratio to the peer's best batch size."""
    neighbours = Neighbours()
    workloads = WORKLOADS if subject.on_a_card else WORKLOADS[:2]
    ceilings = measured_ceilings(torch.device(subject.device))
    lines = [
        Line("largest matrix product", f"{ceilings['matmul TFLOP/s']:g} TFLOP/s"),
        Line("copy", f"{ceilings['copy TB/s']:g} TB/s"),
    ]
    arguments = argparse.Namespace(
        weights=str(subject.weights),
        device=subject.device,
        layers=None,
        workloads=",".join(workloads),
        rounds=subject.workload.rounds,
    )
    rows = engine_rows(arguments)
    for workload in workloads:
        here = {row["system"]: row for row in rows if row["workload"] == workload}
        ours = here[OURS]
        share = f"{ours['% of ceiling']:g} % of {CEILING.partition(': ')[2]}"
        rate = f"{ours['ms']:g} ms, {ours['tokens/s']:g} tokens/s, {share}, spread {ours['spread']}"
        lines.append(Line(workload, rate))
        peers = [row["ours is faster by"] for system, row in here.items() if PEER in system]
        what = f"{workload}: times as fast as {PEER} at its best batch size"
        if not peers:
            lines.append(not_run(what, f"{PEER} is not installed"))
        elif subject.on_a_card:
            lines.append(at_least(what, min(peers), 1))
        else:
            lines.append(Line(what, f"{min(peers):g}"))
    return [*lines, Line("cores that other processes took meanwhile", f"{neighbours.cores():.2f}")]
