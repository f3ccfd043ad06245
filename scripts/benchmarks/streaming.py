"""A model on cards of several sizes: the layers that stay, the copies of the others, the same bits.

Each size is simulated on a larger card, of which the process takes no more (`E5_CARD_GB`).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.launches import TOKEN_WORKLOADS
from benchmarks.random_weights import random_mistral
from benchmarks.rounds import ROUNDS, peak_gib, reset_peak, side_by_side
from e5.engine import Engine
from e5.layers import StreamedLayers
from e5.mistral import Config
from e5.placement import MemoryNeeds, choose_streamed_layers

TIMED = {"lone query ms": "1 x 24 tokens", "4,096 tokens ms": "8 x 512"}
FULL = "4,096 tokens ms"
SAME_BITS = (*TIMED.values(), "32 queries of one task", "1 x 4096")
MAX_LENGTH = 4096


def streaming_rows(
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    sizes: Sequence[float | None],
    *,
    rounds: int = ROUNDS,
) -> Iterator[dict[str, Any]]:
    """Compare the model on cards of some gigabytes with one that holds all of it.

    A size of None is what is free. No CUDA graphs are used, whose padding changes the last bits.
    """
    engine = Engine(
        random_mistral(config, device, dtype), max_batch_tokens=MAX_LENGTH, graphs=False
    )
    truth = [engine.compute(TOKEN_WORKLOADS[name]) for name in SAME_BITS]
    resident = _milliseconds(engine, rounds)
    yield {"card GB": "all of it", "on the card": config.num_hidden_layers, **resident}
    del engine
    needs = MemoryNeeds.of(config, dtype, max_length=MAX_LENGTH, batch_tokens=MAX_LENGTH)
    for size in sizes:
        try:
            streamed = choose_streamed_layers(needs, device, size)
            model = random_mistral(config, device, dtype, streamed=streamed)
            reset_peak(device)
            engine = Engine(model, graphs=False)
            budget, engine.max_batch_tokens = engine.max_batch_tokens, MAX_LENGTH
            same = [
                bool((engine.compute(TOKEN_WORKLOADS[name]) == vectors).all())
                for name, vectors in zip(SAME_BITS, truth, strict=True)
            ]
            found = _milliseconds(engine, rounds)
            layers = model.layers
            nbytes, seconds = (
                (layers.nbytes, layers.copy_seconds)
                if isinstance(layers, StreamedLayers)
                else (0, 0.0)
            )
            yield {
                "card GB": size,
                "on the card": config.num_hidden_layers - len(streamed),
                "streamed": len(streamed),
                "copied GB": round(nbytes / 1e9, 2),
                "copied ms": round(1e3 * seconds, 2),
                "copied GB/s": round(nbytes / 1e9 / seconds, 2) if seconds else "",
                **found,
                "beside all of it": round(found[FULL] / resident[FULL], 3),
                "tokens a forward": budget,
                "peak GiB": round(peak_gib(device), 2),
                "the same bits": f"{sum(same)} of {len(same)} workloads",
            }
            del engine, model, layers
        finally:
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0, device)


def _milliseconds(engine: Engine, rounds: int) -> dict[str, float]:
    """The milliseconds of a lone query and of a full forward."""
    runs = {column: partial(engine.compute, TOKEN_WORKLOADS[TIMED[column]]) for column in TIMED}
    times = side_by_side(runs, engine.model.device, rounds=rounds, name="streaming")
    return {column: times[column].columns()["ms"] for column in runs}
