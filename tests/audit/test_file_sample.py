"""Files, folders of shards and indexes give the sample that they hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_tools import embed, texts, write_corpus, write_rows

from e5.audit.file_sample import sample_files
from e5.corpora import Corpus, Index, Recipe
from e5.embedder import Embedder
from e5.errors import InputError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.json", "a.tsv.gz"])
def test_a_file_gives_texts_with_their_vectors(name: str, tmp_path: Path) -> None:
    as_text = "csv" in name or "tsv" in name
    rows: list[dict[str, Any]] = [
        {"key": i, "body": f"text {i}", "vector": json.dumps([i, 1]) if as_text else [i, 1]}
        for i in range(5)
    ]
    rows.append({"key": 9, "body": "text 9", "vector": None})
    write_rows(tmp_path / name, rows)
    gathered = sample_files(Corpus(str(tmp_path), ("body",), "key"), "vector", 9, "query")
    assert gathered.sample.ids == ["0", "1", "2", "3", "4"]
    assert gathered.sample.texts == [f"text {i}" for i in range(5)]
    assert gathered.sample.vectors.tolist() == [[i, 1] for i in range(5)]
    assert set(gathered.sample.roles) == {"query"}
    assert [(row.id, row.reason) for row in gathered.left_out] == [("9", "no vector")]
    assert gathered.task is None
    assert not gathered.remarks


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "a", "embedding": [1]}])
    with pytest.raises(InputError, match="it has text, embedding") as raised:
        sample_files(Corpus(str(tmp_path)), "vector", 9)
    assert raised.value.field == "vector_column"


@pytest.mark.parametrize("task", ["", "sts_query"])
def test_own_folders_say_what_their_texts_are(
    task: str, embedder: Embedder, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(12))
    shards = embed(corpus, tmp_path / "out", embedder, Recipe(task, dtype="float32"))
    Index.build(shards, str(tmp_path / "index"))
    for location in ("out", "index"):
        gathered = sample_files(Corpus(str(tmp_path / location)), "embedding", 5)
        sample = gathered.sample
        assert set(sample.roles) == {"query" if task else "document"}
        assert gathered.task == (task or None)
        assert gathered.remarks == [f"{tmp_path / location} was made by {embedder.name}"]
        right = embedder.encode_document(sample.texts, task=task, normalize=location == "index")
        np.testing.assert_allclose(sample.vectors, right, atol=1e-2 if location == "index" else 0)
