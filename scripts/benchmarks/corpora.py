"""Corpora from end to end: embedding beside the engine's own rate, growth, and search.

Real English texts (package descriptions, dictionary, help pages: what the built-in checkpoint is
trained on, fetched by apt), through the built-in checkpoint unless another is named.
"""

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.subjects import child

from e5.embedder import Embedder
from e5.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = ROOT / "build/e5-mini/snapshot"
SIZES = (1_000, 10_000, 100_000)
QUERIES = 500
TURNS = 8  # of the loop, between runs of the engine alone: machines drift


def corpus_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Cost a document and peak memory of `scripts/embed_corpus`, and its rate beside the engine's.

    The sizes take turns, because machines drift; each size's best run counts.
    """
    weights = arguments.weights or ROOT / "weights/e5-mini"
    texts = real_texts(SIZES[-1])
    best: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in SIZES:
            write_jsonl(folder / f"{size}.jsonl", texts[:size])
        for turn in range(arguments.repeats):
            for size in SIZES:
                row = _run(weights, folder / f"{size}.jsonl", folder / f"out-{size}-{turn}")
                if size not in best or row["us/token"] < best[size]["us/token"]:
                    best[size] = row
        share = _beside_the_engine(weights, folder / f"{SIZES[1]}.jsonl", folder)
    rows = [{"documents": size} | best[size] for size in SIZES]
    first = rows[0]["us/token"]
    rows = [row | {"beside the first": round(row["us/token"] / first, 3)} for row in rows]
    return [*rows, {"documents": f"{SIZES[1]}, of the engine's own rate", **share}]


_CHILD = """
import runpy, sys
import torch
from benchmarks.subjects import peak_gib
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(peak_gib(torch.device("cpu")))
"""


def _run(weights: Path, corpus: Path, out: Path) -> dict[str, Any]:
    """One run of the command, in a process of its own."""
    script = ROOT / "scripts/embed_corpus"
    printed = child(_CHILD, script, corpus, out, E5_WEIGHTS=str(Path(weights).resolve()))
    found = re.match(r"([\d,]+) documents, ([\d,]+) tokens in ([\d.]+) s", printed)
    assert found, printed
    documents, tokens, seconds = (float(number.replace(",", "")) for number in found.groups())
    size = sum(file.stat().st_size for file in out.glob("*.parquet"))
    return {
        "tokens": int(tokens),
        "seconds": seconds,
        "documents/s": round(documents / seconds),
        "us/token": round(1e6 * seconds / tokens, 2),
        "peak GiB": round(float(printed.split()[-1]), 2),
        "bytes/document": round(size / documents),
    }


def _beside_the_engine(weights: Path, corpus_file: Path, folder: Path) -> dict[str, Any]:
    """The loop's rate over the rate of `Engine.compute` on the same token ids, before and after."""
    from e5.corpus import Corpus
    from e5.shards import Output, Recipe
    from e5.step import embed_units, prepare

    embedder = Embedder.load(Settings(weights=weights))
    corpus = Corpus(str(corpus_file))
    units = corpus.plan(corpus.files(), 2048)
    prepared = [prepare(unit, corpus, embedder, "").token_ids for unit in units]

    def alone() -> float:
        started = time.perf_counter()
        for token_ids in prepared:
            embedder.engine.compute(token_ids)
        return time.perf_counter() - started

    ratios = []
    before = alone()
    for turn in range(TURNS):
        started = time.perf_counter()
        for _ in embed_units(units, corpus, embedder, Output(str(folder / f"{turn}"), Recipe())):
            pass
        loop = time.perf_counter() - started
        after = alone()
        ratios.append((before + after) / 2 / loop)
        before = after
    return {"share": round(statistics.median(ratios), 3), "turns": [round(r, 3) for r in ratios]}


def search_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Recall@10 beside the exact search, time to build, size, milliseconds a query."""
    from test_index import clustered

    weights = arguments.weights or ROOT / "weights/e5-mini"
    embedder = Embedder.load(Settings(weights=weights))
    texts = real_texts(SIZES[-1] + QUERIES)
    documents = embedder.encode_document(texts[QUERIES:])
    queries = embedder.encode_query(texts[:QUERIES])
    standins = clustered(20_000 + QUERIES, 4096)
    torch.set_num_threads(1)
    return [
        {"vectors": f"{len(documents)} texts by {embedder.name}"} | _search(documents, queries),
        {"vectors": "20000 clustered stand-ins"} | _search(standins[QUERIES:], standins[:QUERIES]),
    ]


def _search(vectors: Any, queries: Any) -> dict[str, Any]:
    from test_index import recall, write_shards

    from e5.index import Index

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "out", vectors)
        started = time.perf_counter()
        index = Index.build(str(folder / "out"), str(folder / "index"))
        built = time.perf_counter() - started
        sizes = {
            part: sum(f.stat().st_size for f in (folder / "index").rglob(part) if f.is_file())
            for part in ("*", "_indices/**/*")
        }
        found = recall(index, vectors, queries)
        milliseconds = {exact: [] for exact in (False, True)}  # type: dict[bool, list[float]]
        for query in queries[:100]:
            for exact, taken in milliseconds.items():
                started = time.perf_counter()
                index.search(query, 10, exact=exact)
                taken.append(1e3 * (time.perf_counter() - started))
    return {
        "dimensions": vectors.shape[1],
        "recall@10": round(found, 4),
        "build s": round(built, 1),
        "index MB": round(sizes["_indices/**/*"] / 1e6, 1),
        "all MB": round(sizes["*"] / 1e6, 1),
        "ms a query": round(float(np.median(milliseconds[False])), 1),
        "ms exact": round(float(np.median(milliseconds[True])), 1),
    }


def real_texts(count: int) -> list[str]:
    """Distinct English texts in a fixed order."""
    from mini.sources import fetch
    from mini.texts import gather

    fetch(SNAPSHOT)
    texts = gather(SNAPSHOT).texts
    return random.Random(0).sample(texts, count)


def write_jsonl(path: Path, texts: Sequence[str]) -> None:
    """One `{"id", "text"}` a line."""
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
