"""What the benchmark measures, and how it takes time: models, texts, the machine, tables.

Knows nothing of the systems that are compared.
"""

import argparse
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import MistralConfig, MistralModel, PreTrainedTokenizerFast

from e5.prompts import DEFAULT_TASK, TASKS, query_prompt
from e5.tokenizer import Tokenizer
from e5.weights import choose_device, choose_dtype


@contextmanager
def subject(
    arguments: argparse.Namespace, layers: int | None = None
) -> Iterator[tuple[MistralModel, Path]]:
    """The model under test and a folder with its tokenizer."""
    device = choose_device(arguments.device)
    dtype = choose_dtype(None, device)
    if arguments.weights:
        folder = Path(arguments.weights)
        model = MistralModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        torch.nn.Module.to(model, device)
        model.eval()
        yield model, folder
        return
    layers = layers or arguments.layers or (32 if device.type == "cuda" else 8)
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(Path(name))
        yield random_model(layers, device, dtype), Path(name)


def random_model(layers: int, device: torch.device, dtype: torch.dtype) -> MistralModel:
    """The 7B model's shapes with `layers` layers; weights drawn on the device."""
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=32000,
        rms_norm_eps=1e-5,
        sliding_window=4096,
        max_position_embeddings=32768,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = MistralModel(config)
    torch.nn.Module.to(model, dtype)
    model.to_empty(device=device)
    model.rotary_emb = type(model.rotary_emb)(config).to(device)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02) if parameter.ndim > 1 else parameter.data.fill_(1)
    model.eval().requires_grad_(False)
    return model


def save_tokenizer(folder: Path) -> None:
    """The real Mistral vocabulary where the tests' packages are, else one token a word.

    With the final `</s>` in the post-processor, so that peers read as many tokens as we do.
    """
    try:
        from checkpoints import save_tokenizer

        save_tokenizer(folder, "transformers4")
    except ImportError:
        words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *english_words()])}
        raw = RawTokenizer(models.WordLevel(words, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        PreTrainedTokenizerFast(
            tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
        ).save_pretrained(folder)


def english_words() -> list[str]:
    """Everyday words of English prose: those of the registered instructions, some 200."""
    prose = " ".join(task.instruction for task in TASKS.values())
    return sorted({word.lower() for word in prose.split() if word.isalpha()})


def workloads_of(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Texts by workload; lengths in words or in tokens, as the name says."""
    draw = random.Random(0)
    words = english_words()

    def text(num_words: int) -> str:
        return " ".join(draw.choices(words, k=num_words))

    def of_tokens(num_tokens: int) -> str:
        return text(
            int(num_tokens * num_tokens / tokenizer.encode([text(num_tokens)])[0].num_tokens)
        )

    def query() -> str:
        return query_prompt(DEFAULT_TASK, text(draw.randint(5, 12)))

    def lognormal() -> str:
        return text(int(draw.lognormvariate(math.log(37), 0.7)) + 1)

    # Padding costs as much as the longest text is longer than the mean: 2 to 5 times, by the draw.
    draws = {
        f"32 documents of lognormal length, draw {i}": [lognormal() for _ in range(32)]
        for i in range(1, 5)
    }
    return {
        "one pair": [query(), text(30)],
        "32 queries": [query() for _ in range(32)],
        **draws,
        "16 documents of 64": [of_tokens(64) for _ in range(16)],
        "8 documents of 256": [of_tokens(256) for _ in range(8)],
        "4 documents of 512": [of_tokens(512) for _ in range(4)],
        "1 document of 2048": [of_tokens(2048)],
        "1 document of 4096": [of_tokens(4096)],
    }


def best_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The shortest of `repeats` runs, after one that warms up where a run is short."""
    seconds: list[float] = []
    while len(seconds) < repeats:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1 and seconds[0] < 5:
            repeats += 1  # the first of short runs is the slowest
    return min(seconds)


def machine_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures were taken on, with which versions, by which command."""
    device = choose_device(arguments.device)
    versions = {}
    for package in ("torch", "transformers", "sentence-transformers", "cog"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": str(device),
        "dtype": str(choose_dtype(None, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "command": " ".join(["./scripts/benchmark", *sys.argv[1:]]),
    }
    return facts | {"name": _name(device)} | measured_ceilings(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@cache
def measured_ceilings(device: torch.device) -> dict[str, float]:
    """Rates of a large matrix product and a large copy (bytes read and written), on random data."""
    size, numel = (8192, 2**29) if device.type == "cuda" else (4096, 2**26)
    dtype = choose_dtype(None, device)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = best_seconds(lambda: a @ b, device, 5)
    source = torch.ones(numel, dtype=dtype, device=device)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), device, 5)
    return {
        "matmul TFLOP/s": round(2 * size**3 / seconds / 1e12, 3),
        "copy TB/s": round(2 * source.nbytes / copy / 1e12, 4),
    }


def reset_peak(device: torch.device) -> None:
    """Begin to watch the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (man 5 proc)


def peak_gib(device: torch.device) -> float:
    """The peak since `reset_peak`, weights included: allocated on CUDA, resident on a CPU.

    Of this process alone; getrusage would begin with its parent's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def child(code: str, *arguments: object, **environment: str) -> str:
    """What Python code prints in a process of its own, which finds `e5` and `benchmarks`."""
    scripts = Path(__file__).resolve().parents[1]
    paths = {"PYTHONPATH": f"{scripts}{os.pathsep}{scripts.parent}"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environ = os.environ | paths | environment
    return subprocess.run(
        command, env=environ, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows as aligned columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    widths = [
        max(len(column), *(len(str(row.get(column, ""))) for row in rows)) for column in columns
    ]
    for cells in (columns, *([row.get(column, "") for column in columns] for row in rows)):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)))
    print(flush=True)


@contextmanager
def saved_checkpoint(arguments: argparse.Namespace, layers: int) -> Iterator[Path]:
    """The model under test as a checkpoint folder in the hub's dtype, float16."""
    if arguments.weights:
        yield Path(arguments.weights)
        return
    with subject(arguments, layers) as (model, folder):
        torch.nn.Module.to(model, torch.float16)
        model.save_pretrained(folder)
        del model
        yield folder
