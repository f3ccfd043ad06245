"""Where the time of a forward goes, by kind of kernel; and products of weights apart and joined.

The kinds are matrix products, attention, element-wise kernels, copies, others, and gaps: the time
in which the card computes nothing, because the host has not launched the next kernel yet.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.launches import TOKEN_WORKLOADS
from benchmarks.rounds import ROUNDS, side_by_side
from e5.engine import Engine
from e5.forward import forward
from e5.graphs import padded, size_for
from e5.mistral import Layer, Mistral
from e5.packing import TokenIds

PROFILED = (
    "1 x 24 tokens",
    "32 queries of one task",
    "256 queries of one task",
    "16 x 64",
    "8 x 512",
    "1 x 4096",
)
CALLS = 5
LARGEST = 12  # kernels that are named
# The first kind whose pattern is in the name of a kernel; on a CPU, of an operation. Copies are
# also changes of the dtype, and gathers of rows.
KINDS = {
    "attention": r"flash|fmha|attention|softmax",
    "products": r"gemm|gemv|nvjet|cutlass|cublas|splitk|matmul|aten::(mm|addmm|bmm|linear)\b",
    "copies": r"memcpy|memset|copy|index|gather|\bcat|CatArray|embedding",
    "element-wise": r"elementwise|triton|norm|reduce|silu|aten::",
    "other": "",
}
ROWS = (8, 32, 128, 512, 1024, 4096)


def profile_of(
    model: Mistral, *, compiled: bool, names: Sequence[str] = PROFILED
) -> Iterator[dict[str, Any]]:
    """Milliseconds of a forward by kind of kernel, for each of some workloads.

    A forward is timed as it is served, by a CUDA graph if there is one for it, and without the
    profiler, which slows the host's launches down. What its kernels do not fill of that time are
    the gaps.
    """
    os.environ["TEARDOWN_CUPTI"] = "0"  # beside CUDA graphs the profiler could not be begun again
    engine = Engine(model, compiled=compiled)
    calls = CALLS if model.device.type == "cuda" else 1
    for name in names:
        texts = TOKEN_WORKLOADS[name]
        runs = {name: partial(engine.compute, texts)}
        total = side_by_side(runs, model.device, rounds=3)[name].median * 1e3
        run = _one_by_one(engine, texts)
        kernels = Counter[str]()
        milliseconds: dict[str, float] = {}
        for kernel, taken in _kernels(run, calls, model.device):
            kernels[kernel] += 1
            milliseconds[kernel] = milliseconds.get(kernel, 0.0) + taken / calls
        kinds = dict.fromkeys(KINDS, 0.0)
        for kernel, taken in milliseconds.items():
            kinds[kind_of(kernel)] += taken
        largest = sorted(milliseconds, key=lambda kernel: -milliseconds[kernel])[:LARGEST]
        yield {
            "workload": name,
            "way": "compiled" if compiled else "plain",
            "ms": round(total, 3),
            **{kind: round(taken, 3) for kind, taken in kinds.items()},
            "gaps": round(max(0.0, total - sum(kinds.values())), 3),
            "kernels": kernels.total() // calls,
            "largest": {kernel[:120]: round(milliseconds[kernel], 3) for kernel in largest},
        }


def _one_by_one(engine: Engine, texts: Sequence[TokenIds]) -> Callable[[], object]:
    """A function that launches each kernel of a forward, for the profiler; those of a graph too."""
    texts = sorted(set(texts))
    size = None if engine._graphs is None else size_for(texts, engine._graphs.sizes)
    if size is None:
        return partial(engine.compute, texts)
    batch = padded(texts, size).to(engine.model.device)
    return partial(forward, engine.model, batch, compiled=engine.compiled)


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name.

    >>> kind_of("ampere_fp16_s16816gemm_fp16_128x128_ldg8"), kind_of("pytorch_flash::flash_fwd")
    ('products', 'attention')
    """
    return next(kind for kind, names in KINDS.items() if re.search(names, kernel, re.IGNORECASE))


def _kernels(
    run: Callable[[], object], calls: int, device: torch.device
) -> Iterator[tuple[str, float]]:
    """The name and the milliseconds of each kernel in some calls; of each operation on a CPU."""
    run()
    on_a_card = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_a_card else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(calls):
            run()
        if on_a_card:
            torch.cuda.synchronize(device)
    for event in profiler.events() or ():
        if not on_a_card:  # operations contain others
            yield event.name, event.self_cpu_time_total / 1e3
        elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            yield event.name, event.time_range.elapsed_us() / 1e3


def products_of(
    model: Mistral, *, rows: Sequence[int] = ROWS, rounds: int = ROUNDS
) -> Iterator[dict[str, Any]]:
    """Milliseconds of the products that could be joined, apart and joined, for all layers.

    The weights of q, k and v stand one below the other in the joined matrix, and so do those of
    gate and up. On a card a CUDA graph launches the products, as it does in small forwards.
    """
    layers: Sequence[Layer] = list(model.layers)  # type: ignore[arg-type]
    attentions, mlps = [each.self_attn for each in layers], [each.mlp for each in layers]
    weights: dict[str, list[list[torch.Tensor]]] = {
        "q, k, v": [[a.q_proj.weight, a.k_proj.weight, a.v_proj.weight] for a in attentions],
        "gate, up": [[mlp.gate_proj.weight, mlp.up_proj.weight] for mlp in mlps],
    }
    for product, apart in weights.items():
        joined = [[torch.cat(parts)] for parts in apart]
        for count in rows:
            like = apart[0][0]
            x = torch.randn(count, like.shape[1], device=like.device).to(like.dtype)
            runs = {
                way: _replayed(partial(_multiply, x, matrices), model.device)
                for way, matrices in (("apart", apart), ("joined", joined))
            }
            times = side_by_side(runs, model.device, rounds=rounds, name=f"{product} {count}")
            yield {
                "product": product,
                "rows": count,
                "layers": len(layers),
                **{f"{way} ms": times[way].columns()["ms"] for way in runs},
                "spread": times["joined"].columns()["spread"],
                "joined is faster by": round(times["joined"].ratio(times["apart"]), 3),
            }


@torch.inference_mode()
def _multiply(x: torch.Tensor, matrices: Sequence[Sequence[torch.Tensor]]) -> None:
    for parts in matrices:
        for matrix in parts:
            F.linear(x, matrix)


def _replayed(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A function that launches all kernels of `run` at once; `run` itself on a CPU."""
    if device.type != "cuda":
        return run
    run()  # one-time work cannot be captured
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
