"""Small corpora, embedded and read back, for the tests of everything that is made of them."""

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e5.corpora.corpus import Corpus, Reading, ReadRow
from e5.corpora.documents import DeadLetter, Document, Passage
from e5.corpora.index import Index
from e5.corpora.inventory import compare
from e5.corpora.loop import Loop
from e5.corpora.plan import Unit, plan
from e5.corpora.scan import scan
from e5.corpora.shard import Shard, encode_vectors, shard_name
from e5.corpora.shard_folder import DEAD_LETTERS, Recipe, ShardFolder
from e5.corpora.synchronize import Report, embed_corpus
from e5.embedder import Embedder
from e5.vectors import Vectors, cosine_scores

MODEL = "made-up@0123456789ab"  # of shards that no model made

Row = dict[str, Any]

ROOT = Path(__file__).parent.parent.parent
WORDS = ["snow", "is", "frozen", "water", "that", "falls", "in", "winter", "on", "mountains"]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(count)]


def write_rows(path: Path, rows: Sequence[Row], rows_per_group: int = 7) -> None:
    """The rows in the format that the path's ending names."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        columns = dict.fromkeys(key for row in rows for key in row)
        table = pa.table({key: pa.array([row.get(key) for row in rows]) for key in columns})
        pq.write_table(table, path, row_group_size=rows_per_group)
        return
    text = io.StringIO(newline="")
    if name.endswith((".csv", ".tsv")):
        columns = dict.fromkeys(key for row in rows for key in row)
        delimiter = "\t" if name.endswith(".tsv") else ","
        writer = csv.DictWriter(text, list(columns), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    elif name.endswith(".json"):
        json.dump(rows, text, indent=1)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(packed(path, text.getvalue().encode()))


def packed(path: Path, content: bytes) -> bytes:
    """Compressed as the path's ending says."""
    if path.suffix == ".gz":
        return gzip.compress(content)
    return pa.compress(content, codec="zstd", asbytes=True) if path.suffix == ".zst" else content


def read_all(corpus: Corpus) -> list[Document | DeadLetter]:
    """Every row of every file."""
    return [row.item for file in corpus.files() for row in read_rows(corpus, file)]


def read_rows(corpus: Corpus, file: str) -> list[ReadRow]:
    """All rows of a file."""
    with Reading(corpus) as reading:
        return list(reading.rows(file))


def write_corpus(path: Path, rows: list[str]) -> Corpus:
    lines = [json.dumps({"id": f"{path.stem}-{i}", "text": text}) for i, text in enumerate(rows)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return Corpus(str(path.parent), id_column="id")


def embed(
    corpus: Corpus, out: Path, embedder: Embedder, recipe: Recipe | None = None, rows: int = 16
) -> ShardFolder:
    folder = ShardFolder(str(out), recipe)
    mirror(corpus, folder, embedder, rows)
    return folder


def mirror(
    corpus: Corpus, folder: ShardFolder, embedder: Embedder, rows: int = 16, **options: Any
) -> Report:
    return embed_corpus(corpus, folder, Loop(lambda: embedder), rows_per_shard=rows, **options)


def begin(folder: ShardFolder, embedder: Embedder, corpus: Corpus) -> None:
    folder.begin(folder.check(embedder.name, embedder.dimensions, corpus))


def units(corpus: Corpus, folder: ShardFolder, rows: int = 16) -> list[Unit]:
    """The units that make the folder hold the corpus."""
    found = scan(corpus, corpus.files(), None, lambda *_: None)
    stored = folder.inventory()
    difference = compare(found.inventory, stored)
    reusable = {folder.location: stored}
    return plan(found.inventory, found.read_positions, stored, difference, reusable, rows)


def shard_names(out: Path) -> list[str]:
    return ShardFolder(str(out)).shard_names()


def read_shards(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(out / name) for name in shard_names(out))


def vectors_of(table: pa.Table) -> Vectors:
    column = table["embedding"].combine_chunks()
    elements: Vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return elements.reshape(len(column), -1)


def dead_letters(out: Path) -> dict[str, str]:
    lines = [
        line
        for path in sorted((out / DEAD_LETTERS).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return {letter["id"]: letter["reason"] for letter in map(json.loads, lines)}


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def clustered(count: int, dimensions: int, seed: int = 0) -> Vectors:
    """Vectors in clusters of about 50, as real texts have their topics."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // 50), dimensions))
    own = centres[draw.integers(len(centres), size=count)]
    noisy: Vectors = (own + 0.7 * draw.standard_normal(own.shape)).astype(np.float32)
    return noisy


def write_shards(folder: Path, vectors: Vectors, rows: int = 5000, first: int = 0) -> None:
    """Vectors as shards, without a model; ids count on from `first`."""
    shards = ShardFolder(str(folder))
    corpus = Corpus(str(folder.parent / "in"))
    shards.begin(shards.check(MODEL, vectors.shape[1], corpus))
    number = len(shards.shard_names())
    for i in range(0, len(vectors), rows):
        part = vectors[i : i + rows]
        names = range(first + i, first + i + len(part))
        documents = [Document(str(name), f"text {name}") for name in names]
        write_shard(shards, shard_name(number), documents, part)
        number += 1


def write_shard(
    shards: ShardFolder, name: str, documents: Sequence[Document], vectors: Vectors
) -> None:
    """One shard of whole documents; replaces an older one."""
    parts = [[Passage(document.text, 0, len(document.text))] for document in documents]
    stored = encode_vectors(vectors, shards.recipe.dtype)
    shards.write(name, Shard.of(documents, parts, stored, shards.schema), [])


def recall(index: Index, vectors: Vectors, queries: Vectors, top: int = 10) -> float:
    """Share of the exact search's results that the index finds."""
    exact = np.argsort(-cosine_scores(queries, vectors), axis=1)[:, :top]
    found = [[int(hit.id) for hit in index.search(query, top)] for query in queries]
    return float(np.mean([len({*a} & {*b}) / top for a, b in zip(exact, found, strict=True)]))
