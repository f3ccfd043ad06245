"""The engine compared with its peers and its ceiling, on the same weights; and its fidelity."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import MistralConfig, MistralModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from benchmarks.machine import measured_ceilings
from benchmarks.models import MINI, model_under_test, packed
from benchmarks.rounds import Times, side_by_side
from benchmarks.texts import english_words
from benchmarks.workloads import Workload, workloads_of
from e5.device import choose_device, choose_dtype
from e5.embedder import Embedder
from e5.engine import Engine
from e5.packing import TokenIds, divide_into_batches, pack
from e5.prompts import TASKS
from e5.reference import ReferenceEngine
from e5.settings import Settings
from e5.tokenizer import Tokenizer
from e5.vectors import cosine_scores

OURS, CEILING = "this engine", "ceiling: matrix products alone"
UNMODIFIED = "E5_ENGINE=transformers"
READING = "floor: reading the layers' weights once"


def engine_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every workload through every system."""
    with model_under_test(arguments) as (model, folder):
        embedder, unmodified = (
            _embedder(engine, folder) for engine in (Engine(packed(model)), ReferenceEngine(model))
        )
        peer = _sentence_transformer(model, folder)
        weight_bytes = sum(weight.nbytes for weight in model.layers.parameters())
        workloads = workloads_of(lambda text: embedder.tokenize(documents=[text])[0].num_tokens)
        if arguments.workloads:
            workloads = {name: workloads[name] for name in arguments.workloads.split(",")}
        for name, workload in workloads.items():
            ids = _token_ids(embedder, workload)
            runs = _runs(model, embedder, peer, workload)
            runs[UNMODIFIED] = partial(unmodified.compute, ids)
            times = side_by_side(runs, model.device, rounds=arguments.rounds, name=name)
            rows = {system: _row(name, system, ids, times) for system in runs}
            ours, theirs = (each.compute(ids).vectors for each in (embedder, unmodified))
            least = float(np.diag(cosine_scores(ours, theirs)).min()) / 100
            rows[UNMODIFIED]["least cosine to ours"] = round(least, 7)
            yield from rows.values()
            floor = weight_bytes / (measured_ceilings(model.device)["copy TB/s"] * 1e9)
            yield {"workload": name, "system": READING, "ms": round(floor, 2)}


def _embedder(engine: Engine, folder: Path) -> Embedder:
    tokenizer = Tokenizer(folder / "tokenizer.json", max_length=4096)
    return Embedder(engine, tokenizer, name="benchmark")


def _token_ids(embedder: Embedder, workload: Workload) -> list[TokenIds]:
    tokenized = embedder.tokenize(workload.queries, workload.documents)
    return [each.token_ids for each in tokenized]


def _row(
    workload: str, system: str, ids: Sequence[TokenIds], times: dict[str, Times]
) -> dict[str, Any]:
    own = times[system]
    tokens = sum(map(len, ids))
    return {
        "workload": workload,
        "system": system,
        "tokens": tokens,
        **own.columns(),
        "texts/s": round(len(ids) / own.median, 2),
        "tokens/s": round(tokens / own.median, 1),
        "peak GiB": round(own.peak, 2),
        "% of ceiling": round(100 / times[CEILING].ratio(own), 1),
        "ours is faster by": round(times[OURS].ratio(own), 2),
    }


def _runs(
    model: MistralModel, embedder: Embedder, peer: Any, workload: Workload
) -> dict[str, Callable[[], object]]:
    """Each system as a function that embeds the workload's texts once."""
    ids, texts = _token_ids(embedder, workload), workload.with_prompts
    runs: dict[str, Callable[[], object]] = {
        CEILING: _matrix_products(model, ids, embedder),
        OURS: lambda: embedder.compute(_token_ids(embedder, workload)),
        "padded pair per call": lambda: _padded_pairs(model, ids),
    }
    if peer is not None:
        for size in (32, 8, 1):  # the default, and others that may be its best
            if size == 32 or size < len(texts):
                runs[f"sentence-transformers, batch {size}"] = partial(
                    peer.encode, texts, batch_size=size, show_progress_bar=False
                )
    return runs


def _matrix_products(
    model: MistralModel, ids: Sequence[TokenIds], embedder: Embedder
) -> Callable[[], None]:
    """A function that applies every linear layer once, to as many rows as our forward does."""
    layers: list[MistralDecoderLayer] = list(model.layers)
    batches = []
    for texts in divide_into_batches(sorted(set(ids)), max_batch_tokens=embedder.max_batch_tokens):
        rows = len(pack(texts).input_ids)
        attn, mlp = layers[0].self_attn, layers[0].mlp
        inputs = {
            width: torch.randn(rows, width, dtype=model.dtype, device=model.device)
            for width in {
                linear.in_features for linear in (attn.q_proj, attn.o_proj, mlp.down_proj)
            }
        }
        batches.append((inputs, len(texts)))

    @torch.inference_mode()
    def run() -> None:
        for inputs, num_texts in batches:
            for i, layer in enumerate(layers):
                attn, mlp = layer.self_attn, layer.mlp
                for linear in (attn.k_proj, attn.v_proj):
                    F.linear(inputs[linear.in_features], linear.weight)
                read = None if i < len(layers) - 1 else num_texts
                read_linears = (attn.q_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
                for linear in read_linears:
                    F.linear(inputs[linear.in_features][:read], linear.weight)

    return run


def _padded_pairs(model: MistralModel, ids: Sequence[TokenIds]) -> None:
    """Compute two texts per call, as the original predictor did."""
    for i in range(0, len(ids), 2):
        _padded_pair(model, ids[i : i + 2])


@torch.inference_mode()
def _padded_pair(model: MistralModel, texts: Sequence[TokenIds]) -> torch.Tensor:
    """The last tokens' states in float32, by transformers' own forward with padding."""
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(text) for text in texts], batch_first=True, padding_value=2
    )
    hidden = model(
        input_ids=padded.to(model.device), attention_mask=mask.to(model.device), use_cache=False
    ).last_hidden_state
    last: torch.Tensor = hidden[torch.arange(len(texts)), lengths - 1]
    return last.float().cpu()


def _sentence_transformer(model: MistralModel, folder: Path) -> Any:
    """sentence-transformers with the same weights and last-token pooling, or None without it."""
    try:
        return _new_sentence_transformer(model, folder)
    except (
        ImportError,
        ValueError,
    ) as error:  # it is missing, or its version cannot load the model
        print(f"sentence-transformers is left out: {error}", file=sys.stderr)
        return None


def _new_sentence_transformer(model: MistralModel, folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with tempfile.TemporaryDirectory() as name:
        # The object is built with a model of one layer, which the real one replaces.
        tiny = MistralConfig(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=32000,
        )
        MistralModel(tiny).save_pretrained(name)
        for file in folder.glob("tokenizer*"):
            (Path(name) / file.name).write_bytes(file.read_bytes())
        transformer = Transformer(name, max_seq_length=4096)
        transformer.model = model
        pooling = Pooling(model.config.hidden_size, pooling_mode="lasttoken")
        peer = SentenceTransformer(modules=[transformer, pooling], device=str(model.device))
    peer.tokenizer.padding_side = "right"
    return peer


def growth_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Cost per token from ten texts to ten thousand, at the 7B model's layer shapes.

    The small sizes are measured before and after the large one, in many calls, because a machine's
    speed drifts by more than they differ.
    """
    with model_under_test(arguments, layers=2) as (model, folder):
        embedder = _embedder(Engine(packed(model)), folder)
        rng = random.Random(0)
        words = english_words()
        texts = [" ".join(rng.choices(words, k=rng.randint(20, 60))) for _ in range(10_000)]
        ids = _token_ids(embedder, Workload(documents=tuple(texts)))
        embedder.compute(ids[:10])
        small = {10: 50, 100: 5, 1000: 1}  # calls by the number of texts per call
        seconds = dict.fromkeys((*small, len(ids)), 0.0)
        tokens = dict.fromkeys(seconds, 0)
        for calls_by_count in (small, {len(ids): 1}, small):
            for count, calls in calls_by_count.items():
                for i in tqdm(range(calls), f"{count} texts a call", leave=False):
                    part = ids[i * count : (i + 1) * count]
                    started = time.perf_counter()
                    embedder.compute(part)
                    seconds[count] += time.perf_counter() - started
                    tokens[count] += sum(map(len, part))
        cost = {count: seconds[count] / tokens[count] * 1e6 for count in seconds}
        return [
            {
                "texts a call": count,
                "tokens": tokens[count],
                "us/token": round(cost[count], 2),
                "beside 10 texts": round(cost[count] / cost[10], 3),
            }
            for count in cost
        ]


def fidelity_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Agreement of each dtype with the unmodified, padded model in float32 on the same ids."""
    weights = Path(arguments.weights or MINI)
    rng = random.Random(2)
    words = english_words()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 400))) for _ in range(500)]
    device = choose_device(arguments.device)
    reference = MistralModel.from_pretrained(weights, dtype=torch.float32).eval()
    torch.nn.Module.to(reference, device)
    rows = []
    for dtype in ("float32", str(choose_dtype(None, device)).removeprefix("torch.")):
        embedder = Embedder.load(Settings(weights=weights, device=str(device), dtype=dtype))
        tokenized = embedder.tokenize(documents=texts)
        for task, text in zip(TASKS, texts, strict=False):
            tokenized += embedder.tokenize([text[:80]], task=task)
        ids = [each.token_ids for each in tokenized]
        ours = torch.from_numpy(embedder.compute(ids).vectors)
        pairs = [
            _padded_pair(reference, ids[i : i + 2]) for i in tqdm(range(0, len(ids), 2), dtype)
        ]
        truth = torch.cat(pairs)
        scale = truth.abs().amax(dim=1, keepdim=True)
        rows.append(
            {
                "weights": weights.name,
                "dtype": dtype,
                "texts": len(ids),
                "least cosine": round(F.cosine_similarity(ours, truth).min().item(), 7),
                "greatest difference / scale": f"{((ours - truth).abs() / scale).max():.1e}",
            }
        )
    return rows
