"""The parts of `--sections card`: each yields rows. See `card`, which runs them in processes.

python -m benchmarks.card_parts '{"device": "cuda", "rounds": 5}' streaming
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from e5.device import choose_device, choose_dtype

DRIVER = (
    "nvidia-smi",
    "--query-gpu=driver_version,power.limit,pcie.link.gen.max,pcie.link.width.max",
    "--format=csv,noheader",
)
GIGABYTES = (8, 12, 16)  # of cards
ENGINE_WORKLOADS = (
    "one pair",
    "32 queries",
    "32 documents of lognormal length (draw 1)",
    "4 documents of 512",
)
ENGINE_ROUNDS = 3  # sentence-transformers takes seconds for each
CLIENTS, LOAD_SECONDS = (1, 16, 64, 256), 3.0


class Run:
    """The device of a run, its model, and how much is measured: on a CPU as little as possible."""

    def __init__(self, device: str, rounds: int) -> None:
        """See `card`."""
        from benchmarks.random_weights import SEVEN_BILLION, SMALL

        self.device = choose_device(device)
        if self.device.type == "cuda":  # torch limits the memory of no card without a number
            self.device = torch.device("cuda", self.device.index or 0)
        self.dtype = choose_dtype(None, self.device)
        self.on_a_card = self.device.type == "cuda"
        self.config = SEVEN_BILLION if self.on_a_card else SMALL
        self.rounds = rounds if self.on_a_card else 1

    def model(self) -> Any:
        """A model with random weights on the device."""
        from benchmarks.random_weights import random_mistral

        return random_mistral(self.config, self.device, self.dtype)

    def some(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """All of some workloads on a card; on a CPU the first two."""
        return names if self.on_a_card else names[:2]


def machine(run: Run) -> Iterator[dict[str, Any]]:
    """The machine, the versions, and the rates of a large product and a large copy on a card."""
    from benchmarks.machine import machine_versions, measured_ceilings

    facts = machine_versions(run.device) | {"cores": len(os.sched_getaffinity(0))}
    if run.on_a_card:
        properties = torch.cuda.get_device_properties(run.device)
        facts["compute capability"] = f"{properties.major}.{properties.minor}"
        facts["memory GB"] = round(properties.total_memory / 1e9, 1)
        facts["torch is built for"] = " ".join(torch.cuda.get_arch_list())
        if shutil.which(DRIVER[0]):
            done = subprocess.run(DRIVER, capture_output=True, text=True)
            facts["driver, power limit, PCIe"] = done.stdout.strip()
    yield facts
    if run.on_a_card:
        yield measured_ceilings(run.device)


def profile(run: Run) -> Iterator[dict[str, Any]]:
    """Where the time of a forward goes; compiled too, on a card."""
    from benchmarks.kernel_profile import PROFILED, profile_of

    model = run.model()
    for compiled in (False, True)[: 1 + run.on_a_card]:
        yield from profile_of(model, compiled=compiled, names=run.some(PROFILED))


def products(run: Run) -> Iterator[dict[str, Any]]:
    """Matrix products of q, k, v and of gate, up: apart and joined. A few layers are enough."""
    from benchmarks.kernel_profile import ROWS, products_of

    run.config = run.config.model_copy(update={"num_hidden_layers": 4})
    yield from products_of(run.model(), rows=ROWS if run.on_a_card else ROWS[:2], rounds=run.rounds)


def launches(run: Run) -> Iterator[dict[str, Any]]:
    """Kernels launched one by one, by CUDA graphs, and compiled."""
    from benchmarks.launches import TOKEN_WORKLOADS, launches_of

    names = run.some(tuple(TOKEN_WORKLOADS))
    yield from launches_of(run.model(), compiled=run.on_a_card, names=names, rounds=run.rounds)


def streaming(run: Run) -> Iterator[dict[str, Any]]:
    """Layers that are streamed to cards of several sizes."""
    from benchmarks.streaming import streaming_rows

    sizes = GIGABYTES if run.on_a_card else (None,)
    yield from streaming_rows(run.config, run.device, run.dtype, sizes, rounds=run.rounds)


def tests(_: Run) -> Iterator[dict[str, Any]]:
    """The tests that are marked `gpu`."""
    from benchmarks.gpu_tests import run_gpu_tests

    done = run_gpu_tests()
    yield {"exit status": done.code, **done.counts, "failed tests": " ".join(done.failures)}
    if done.code:
        sys.exit("a test failed")


def engines(run: Run) -> Iterator[dict[str, Any]]:
    """Our engine, the unmodified model and sentence-transformers; the built-in model on a CPU."""
    from benchmarks.engine import engine_rows
    from benchmarks.models import MINI

    yield from engine_rows(
        argparse.Namespace(
            device=str(run.device),
            layers=None,
            weights=None if run.on_a_card else str(MINI),
            workloads=",".join(ENGINE_WORKLOADS if run.on_a_card else ENGINE_WORKLOADS[:1]),
            rounds=ENGINE_ROUNDS if run.on_a_card else 1,
        )
    )


def doors(run: Run) -> Iterator[dict[str, Any]]:
    """The gateway and Cog's server under load, one after the other."""
    from benchmarks.many_clients import rows_of_each_door

    engine, clients = ("random", CLIENTS) if run.on_a_card else ("real", CLIENTS[1:2])
    seconds = LOAD_SECONDS if run.on_a_card else 0.3
    yield from rows_of_each_door(engine, str(run.device), clients=clients, seconds=seconds)


PARTS: dict[str, Callable[[Run], Iterator[dict[str, Any]]]] = {
    "machine": machine,
    "profile": profile,
    "products": products,
    "launches": launches,
    "streaming": streaming,
    "tests": tests,
    "engines": engines,
    "doors": doors,
}


def main() -> None:
    """Run a part, and print each row as a line of JSON; all else goes to the standard error."""
    options, name = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as output:  # no child inherits it
        os.dup2(2, 1)
        for row in PARTS[name](Run(**json.loads(options))):
            print(json.dumps(row), file=output, flush=True)


if __name__ == "__main__":
    main()
