"""The cost of embedding a corpus again after it has changed, and of embedding long texts.

Each run is a process of its own, as `scripts/embed_corpus` is.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import child
from benchmarks.models import MINI
from benchmarks.rounds import peak_gib
from benchmarks.texts import real_texts
from e5.corpora.inventory import InventoryBuilder, compare, find

DOCUMENTS = 100_000
LENGTHS = (5_000, 20_000, 100_000, 400_000)  # characters
LONG_DOCUMENTS = 40
COMPARED_DOCUMENTS = 10_000_000

_CHILD = """
import json, sys, time
from functools import partial
import torch
from benchmarks.rounds import peak_gib
from e5.corpora import Corpus, Loop, ShardFolder, embed_corpus
from e5.embedder import Embedder
from e5.settings import Settings
weights, corpus, out = sys.argv[1:]
started = time.perf_counter()
loop = Loop(partial(Embedder.load, Settings(weights=weights)))
report = embed_corpus(Corpus(corpus, id_column="id"), ShardFolder(out), loop)
done, taken = report.summary, time.perf_counter() - started
peak = peak_gib(torch.device("cpu"))
print(json.dumps([done.computed, done.reused, report.removed, taken, report.elapsed, peak]))
"""


def reuse_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs over a corpus that changes, and the memory of comparing ten million documents."""
    weights = Path(arguments.weights or MINI)
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(real_texts(DOCUMENTS))]
    changed = [rows[0] | {"text": "another text"}, *rows[1:-1]]
    shuffled = random.Random(0).sample(changed, len(changed))
    others = [{"id": f"other {row['id']}", "text": row["text"]} for row in shuffled]
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for label, files in {
            "the first run": {"a": rows},
            "nothing has changed": {"a": rows},
            "one changed, one removed": {"a": changed},
            "all rows in other files": {"b": shuffled[:30_000], "c": shuffled[30_000:]},
            "all with other ids": {"b": others},
        }.items():
            _write(folder / "in", files)
            found.append({"documents": label} | _run(weights, folder / "in", folder / "out"))
    return [*found, _compare_many()]


def long_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds per document of many characters; the model reads the first 4096 tokens."""
    weights = Path(arguments.weights or MINI)
    words = " ".join(real_texts(50_000)).split()
    found = []
    for characters in LENGTHS:
        rng = random.Random(characters)
        texts = [
            " ".join(rng.choices(words, k=characters // 4))[:characters]
            for _ in range(LONG_DOCUMENTS)
        ]
        rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "in").mkdir()
            _write(folder / "in", {"a": rows})
            done = _run(weights, folder / "in", folder / "out")
        milliseconds = round(1e3 * done["seconds of units"] / LONG_DOCUMENTS, 1)
        found.append({"characters": characters, "ms a document": milliseconds})
    base = found[1]["ms a document"]
    return [row | {"beside 20,000": round(row["ms a document"] / base, 2)} for row in found]


def _run(weights: Path, corpus: Path, out: Path) -> dict[str, Any]:
    computed, reused, removed, taken, elapsed, peak = json.loads(
        child(_CHILD, weights, corpus, out)
    )
    return {
        "computed": computed,
        "reused": reused,
        "removed": removed,
        "seconds in all": round(taken, 2),
        "seconds of units": round(elapsed, 2),
        "peak GiB": round(peak, 2),
    }


def _write(folder: Path, files: dict[str, list[dict[str, str]]]) -> None:
    for path in folder.iterdir():
        if path.stem not in files:
            path.unlink()
    for name, rows in files.items():
        path = folder / f"{name}.jsonl"
        content = "".join(json.dumps(row) + "\n" for row in rows)
        if not path.exists() or path.read_text() != content:
            path.write_text(content)


def _compare_many() -> dict[str, Any]:
    """Compare ten million documents with as many, of which one in a hundred differs."""
    device = torch.device("cpu")
    rng = np.random.default_rng(0)
    before = peak_gib(device)
    corpus, folder = InventoryBuilder(), InventoryBuilder()
    corpus.begin("a")
    folder.begin("b")
    for _ in range(100):  # one shard after the other
        hashes = rng.integers(0, 2**64, (3, COMPARED_DOCUMENTS // 100), np.uint64, endpoint=False)
        corpus.add_all(hashes[0], hashes[1], hashes[2], np.ones(COMPARED_DOCUMENTS // 100))
        hashes[1:, ::100] += np.uint64(1)
        folder.add_all(hashes[0], hashes[1], hashes[2], np.ones(COMPARED_DOCUMENTS // 100))
    inventories = corpus.build(), folder.build()
    started = time.perf_counter()
    difference = compare(*inventories)
    find(inventories[0].texts, difference.changed, inventories[1].texts)
    assert len(difference.changed) == COMPARED_DOCUMENTS // 100
    return {
        "documents": f"{COMPARED_DOCUMENTS:,}, of which 1 % differ: comparing alone",
        "seconds in all": round(time.perf_counter() - started, 2),
        "peak GiB": round(peak_gib(device) - before, 2),
    }
