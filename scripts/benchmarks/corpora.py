"""Corpora from end to end: embedding compared with the engine's own rate, growth, and search.

The texts are real English; the checkpoint is the built-in one, unless another is named.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.machine import child
from benchmarks.models import MINI, saved_checkpoint
from benchmarks.texts import real_texts
from e5.corpora import Corpus, Index, Loop, ShardFolder, embed_corpus, encode_vectors
from e5.corpora.documents import Document, Passage
from e5.corpora.shard import Shard, shard_name
from e5.embedder import Embedder
from e5.settings import Settings
from e5.vectors import Vectors, cosine_scores

SIZES = (1_000, 10_000, 100_000)
ROWS_PER_SHARD = 2048
QUERIES = 500
LOOP_RUNS = 5  # each lies between two runs of the engine alone, because machines drift


def corpus_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Cost per document and peak memory of embedding a corpus.

    Each round runs every size, because machines drift; a row is the median run of its size.
    """
    weights = Path(arguments.weights or MINI)
    texts = real_texts(SIZES[-1])
    runs: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in SIZES:
            write_jsonl(folder / f"{size}.jsonl", texts[:size])
        for number in range(arguments.rounds):
            for size in SIZES:
                row = _run(weights, folder / f"{size}.jsonl", folder / f"out-{size}-{number}")
                runs[size].append(row)
    rows = [{"documents": size} | _median(runs[size]) for size in SIZES]
    first = rows[0]["us/token"]
    return [row | {"beside the first": round(row["us/token"] / first, 3)} for row in rows]


_CHILD = """
import json, sys
from functools import partial
import torch
from benchmarks.rounds import peak_gib
from e5.corpora import Corpus, Loop, ShardFolder, embed_corpus
from e5.embedder import Embedder
from e5.settings import Settings
weights, corpus, out = sys.argv[1:]
loop = Loop(partial(Embedder.load, Settings(weights=weights)))
report = embed_corpus(Corpus(corpus), ShardFolder(out), loop)
done = report.summary
print(json.dumps([done.documents, done.tokens, report.elapsed, peak_gib(torch.device("cpu"))]))
"""


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median cost, with the least and the greatest cost."""
    ordered = sorted(runs, key=lambda row: row["us/token"])
    costs = {"least": ordered[0]["us/token"], "greatest": ordered[-1]["us/token"]}
    return ordered[len(ordered) // 2] | costs


def _run(weights: Path, corpus: Path, out: Path) -> dict[str, Any]:
    """Embed a corpus in a process of its own, as scripts/embed_corpus does."""
    documents, tokens, seconds, peak = json.loads(child(_CHILD, weights, corpus, out))
    size = sum(file.stat().st_size for file in out.glob("*.parquet"))
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "documents/s": round(documents / seconds),
        "us/token": round(1e6 * seconds / tokens, 2),
        "peak GiB": round(peak, 2),
        "bytes/document": round(size / documents),
    }


def share_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rate of embedding a corpus as a share of the engine's own.

    The rows are of the built-in checkpoint, where tokenising takes a notable part of the time, and
    of two layers in the 7B model's shapes.
    """
    texts = real_texts(SIZES[1])
    with tempfile.TemporaryDirectory() as name, saved_checkpoint(arguments, layers=2) as large:
        return [
            {"weights": "built-in"} | _share(MINI, texts, ROWS_PER_SHARD, Path(name) / "a"),
            {"weights": "7B shapes, 2 layers"} | _share(large, texts[:128], 32, Path(name) / "b"),
        ]


def _share(weights: Path, texts: list[str], rows_per_shard: int, folder: Path) -> dict[str, Any]:
    """The loop's rate over that of the engine alone, before and after it, on the same token ids."""
    embedder = Embedder.load(Settings(weights=weights))
    loop = Loop(lambda: embedder)
    folder.mkdir()
    write_jsonl(folder / "in.jsonl", texts)
    corpus = Corpus(str(folder / "in.jsonl"))
    started = time.process_time()
    tokenized = embedder.tokenize(documents=texts, one_by_one=True)
    tokenising = time.process_time() - started
    ids = [each.token_ids for each in tokenized]

    def engine_seconds() -> float:
        started = time.perf_counter()
        for i in range(0, len(ids), rows_per_shard):
            embedder.compute(ids[i : i + rows_per_shard])
        return time.perf_counter() - started

    started = time.process_time()
    before = engine_seconds()
    computing = time.process_time() - started
    ratios = []
    for number in tqdm(range(LOOP_RUNS), "runs", leave=False):
        out = ShardFolder(str(folder / f"out-{number}"))
        taken = embed_corpus(corpus, out, loop, rows_per_shard=rows_per_shard).elapsed
        after = engine_seconds()
        ratios.append((before + after) / 2 / taken)
        before = after
    return {
        "documents": len(texts),
        "share": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "greatest": round(max(ratios), 3),
        "tokenising, % of the engine's CPU time": round(100 * tokenising / computing, 1),
    }


def search_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Recall@10 against the exact search, time to build, size, and milliseconds per query."""
    embedder = Embedder.load(Settings(weights=arguments.weights or MINI))
    texts = real_texts(SIZES[-1] + QUERIES)
    documents = embedder.encode_document(texts[QUERIES:])
    queries = embedder.encode_query(texts[:QUERIES])
    clusters = clustered(20_000 + QUERIES, 4096)
    torch.set_num_threads(1)
    return [
        {"vectors": f"{len(documents)} texts by {embedder.name}"} | _search(documents, queries),
        {"vectors": "20000 clustered stand-ins"} | _search(clusters[QUERIES:], clusters[:QUERIES]),
    ]


def million_rows(_: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of `search_rows` for a million made-up vectors of 192 dimensions."""
    vectors = clustered(1_000_000 + 100, 192)
    torch.set_num_threads(1)
    return [{"vectors": "1,000,000 clustered stand-ins"} | _search(vectors[100:], vectors[:100])]


def clustered(count: int, dimensions: int) -> Vectors:
    """Made-up vectors in clusters of about 50, like texts of one topic."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((count // 50, dimensions))
    own = centres[rng.integers(len(centres), size=count)]
    noisy: Vectors = (own + 0.7 * rng.standard_normal(own.shape)).astype(np.float32)
    return noisy


def _search(vectors: Vectors, queries: Vectors) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = _as_shards(vectors, folder)
        started = time.perf_counter()
        index = Index.build(shards, str(folder / "index"))
        built = time.perf_counter() - started
        sizes = {
            part: sum(f.stat().st_size for f in (folder / "index").rglob(part) if f.is_file())
            for part in ("*", "_indices/**/*")
        }
        recall = _recall(index, vectors, queries)
        milliseconds: dict[bool, list[float]] = {exact: [] for exact in (False, True)}
        for query in queries[:100]:
            for exact, taken in milliseconds.items():
                started = time.perf_counter()
                index.search(query, 10, exact=exact)
                taken.append(1e3 * (time.perf_counter() - started))
    return {
        "dimensions": vectors.shape[1],
        "recall@10": round(recall, 4),
        "build s": round(built, 1),
        "index MB": round(sizes["_indices/**/*"] / 1e6, 1),
        "all MB": round(sizes["*"] / 1e6, 1),
        "ms a query": round(float(np.median(milliseconds[False])), 1),
        "ms exact": round(float(np.median(milliseconds[True])), 1),
    }


def _as_shards(vectors: Vectors, folder: Path) -> ShardFolder:
    """Write vectors as the shards of a corpus; a document's id is its row number."""
    corpus = Corpus(str(folder / "corpus.jsonl"), id_column="id")
    shards = ShardFolder(str(folder / "shards"))
    shards.begin(shards.check("made-up@0123456789ab", vectors.shape[1], corpus))
    for number, first in enumerate(range(0, len(vectors), ROWS_PER_SHARD)):
        part = vectors[first : first + ROWS_PER_SHARD]
        rows = range(first, first + len(part))
        documents = [Document(str(row), f"text {row}") for row in rows]
        parts = [[Passage(document.text, 0, len(document.text))] for document in documents]
        shard = Shard.of(documents, parts, encode_vectors(part, "float16"), shards.schema)
        shards.write(shard_name(number), shard, [])
    return shards


def _recall(index: Index, vectors: Vectors, queries: Vectors, top: int = 10) -> float:
    """The share of an exact search's results that the index finds."""
    shares = []
    for query in queries:
        scores = cosine_scores(query[None], vectors)[0]
        least = np.partition(scores, -top)[-top]  # equal texts count as equally good
        found = [int(hit.id) for hit in index.search(query, top)]
        shares.append(np.mean(scores[found] >= least - 0.01))
    return float(np.mean(shares))


def write_jsonl(path: Path, texts: Sequence[str]) -> None:
    """Write a line `{"id", "text"}` for each text; the id is the row number."""
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
