"""The forward on a card with kernels launched one by one, by CUDA graphs, and compiled.

The weights are random, in the 7B model's shapes, and so are the token ids.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.random_weights import SEVEN_BILLION, random_mistral
from benchmarks.rounds import ROUNDS, side_by_side
from e5.device import choose_device, choose_dtype
from e5.engine import Engine
from e5.mistral import Mistral
from e5.packing import TokenIds

PLAIN, GRAPHS, COMPILED = "one by one", "graphs", "graphs, E5_COMPILE=1"


def launch_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every workload in every way; on a CPU there are no graphs, so they save nothing."""
    device = choose_device(arguments.device)
    layers = arguments.layers or (32 if device.type == "cuda" else 2)
    config = SEVEN_BILLION.model_copy(update={"num_hidden_layers": layers})
    model = random_mistral(config, device, choose_dtype(None, device))
    return list(launches_of(model, compiled=True, rounds=arguments.rounds))


def launches_of(
    model: Mistral,
    *,
    compiled: bool,
    names: Sequence[str] | None = None,
    rounds: int = ROUNDS,
) -> Iterator[dict[str, Any]]:
    """Run workloads of `TOKEN_WORKLOADS` in every way, or in all but the compiled one.

    The least cosine of a way is that of its vectors to those of kernels launched one by one.
    """
    ways = {PLAIN: Engine(model, graphs=False), GRAPHS: Engine(model)}
    if compiled:
        ways[COMPILED] = Engine(model, compiled=True)
    for name in names or TOKEN_WORKLOADS:
        texts = TOKEN_WORKLOADS[name]
        runs = {way: partial(engine.compute, texts) for way, engine in ways.items()}
        times = side_by_side(runs, model.device, rounds=rounds, name=name)
        plain, *_ = vectors = [torch.from_numpy(run()) for run in runs.values()]
        for way, found in zip(ways, vectors, strict=True):
            least = torch.cosine_similarity(found, plain).min().item()
            yield {
                "workload": name,
                "way": way,
                **times[way].columns(),
                "faster than one by one": round(times[way].ratio(times[PLAIN]), 2),
                "least cosine": round(least, 6),
            }


def _workloads() -> dict[str, Sequence[TokenIds]]:
    rng = random.Random(0)

    def text(tokens: int) -> TokenIds:
        return (1, *rng.choices(range(3, 32_000), k=tokens - 2), 2)

    prompt = text(20)[:-1]

    def queries(count: int) -> Sequence[TokenIds]:
        return [(*prompt, *text(12)[1:]) for _ in range(count)]

    return {
        "1 x 24 tokens": [text(24)],
        "1 x 40": [text(40)],
        "40 and 30": [text(40), text(30)],
        "4 x 40": [text(40) for _ in range(4)],
        "6 x 40": [text(40) for _ in range(6)],
        "8 queries of one task": queries(8),
        "32 queries of one task": queries(32),
        "256 queries of one task": queries(256),
        "16 x 64": [text(64) for _ in range(16)],
        "64 x 64": [text(64) for _ in range(64)],
        "8 x 512": [text(512) for _ in range(8)],
        "1 x 4096": [text(4096)],
    }


TOKEN_WORKLOADS = _workloads()
