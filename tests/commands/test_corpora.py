"""embed_corpus, build_index and search, as a person runs them."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from corpus_tools import (
    ROOT,
    embed,
    texts,
    write_corpus,
)

from commands.embed_corpus import workers
from e5.corpora.shards import Recipe
from e5.embedder import Embedder
from e5.errors import InputError


@pytest.fixture
def run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command's `main` with the settings of `embedder`; status, and what it printed."""
    monkeypatch.setenv("E5_WEIGHTS", str(checkpoint))
    monkeypatch.setenv("E5_DTYPE", "float32")
    monkeypatch.setenv("COLUMNS", "100")

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
        status = import_module(f"commands.{script}").main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return run


def test_from_documents_to_a_search_by_the_scripts(
    tmp_path: Path, embedder: Embedder, run: Callable[..., tuple[int, str, str]]
) -> None:
    rows = [*texts(40), "a cat sleeps\non the sofa"]
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    out, index = tmp_path / "out", tmp_path / "index"
    status, printed, _ = run("embed_corpus", corpus.location, out, "--id-column", "id")
    assert status == 0
    assert printed.startswith("41 documents, ")
    status, printed, _ = run("build_index", out, index)
    assert status == 0
    assert printed.startswith(f"41 documents by {embedder.name}, searched whole")
    status, printed, _ = run("search", index, rows[7], "--task", "", "--top", 3)
    assert status == 0
    head, first, *others = printed.splitlines()
    assert head.split() == ["rank", "score", "id", "text"]
    assert first.split()[:3] == ["1", "100.0", "a-7"]
    assert len(others) == 2
    status, printed, _ = run("search", index, rows[40], "--task", "", "--top", 2, "--json")
    best, second = json.loads(printed)
    assert (best["id"], best["text"]) == ("a-40", rows[40])
    assert best["score"] == pytest.approx(100, abs=0.1)
    assert second["score"] < best["score"]


def test_a_query_carries_the_task_of_a_symmetric_corpus(
    tmp_path: Path, embedder: Embedder, run: Callable[..., tuple[int, str, str]]
) -> None:
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder, Recipe(task="sts_query", dimensions=16))
    run("build_index", tmp_path / "out", tmp_path / "index")
    _, printed, _ = run("search", tmp_path / "index", rows[3], "--json", "--top", 1)
    (best,) = json.loads(printed)
    assert best["id"] == "a-3"
    assert best["score"] == pytest.approx(100, abs=0.1)


def test_a_query_of_other_weights_is_refused(
    tmp_path: Path,
    embedder: Embedder,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed(write_corpus(tmp_path / "in" / "a.jsonl", texts(9)), tmp_path / "out", embedder)
    run("build_index", tmp_path / "out", tmp_path / "index")
    monkeypatch.setenv("E5_WEIGHTS", str(ROOT / "weights/e5-mini"))
    status, printed, said = run("search", tmp_path / "index", "snow")
    assert (status, printed) == (1, "")
    assert "E5_WEIGHTS: received e5-mini@" in said
    assert f"made by {embedder.name}" in said
    assert run("search", tmp_path / "index", "snow", "--top", 0)[0] == 1
    assert run("build_index", tmp_path, tmp_path / "index")[0] == 1


def test_a_pool_is_given_as_a_number_or_as_bounds() -> None:
    assert workers("3") == (3, 3)
    assert workers("1:8") == (1, 8)
    for wrong in ("0", "", "two", "4:2", "1:2:3", "-1", ":3", "1:"):
        with pytest.raises(InputError, match=r"^workers: received"):
            workers(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "IN: received "),
        (["in", "in/out"], "OUT: received "),
        (["in", "out", "--text-column", "body"], "--text-column: received 'body', which "),
        (["in", "out", "--id-column", "key"], "--id-column: received 'key', which "),
        (["in", "out", "--dimensions", "65"], "--dimensions: received 65; use 1 to 64."),
        (["in", "out", "--rows-per-shard", "0"], "--rows-per-shard: received 0; use 1 or more."),
        (["in", "out", "--runner", "ray", "--workers", "0"], "--workers: received '0'; use "),
        (["in", "out", "--task", "x" * 10_001], "--task: received 10001 characters; send "),
    ],
)
def test_what_is_wrong_is_said_in_the_command_s_own_words(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "in" / "a.jsonl", texts(3))
    status, printed, said = run("embed_corpus", *arguments)
    assert (status, printed) == (1, "")
    assert said.splitlines()[-1].startswith(message)


def test_engine_is_still_understood_and_said_to_be_old(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(3))
    status, _, said = run("embed_corpus", corpus.location, tmp_path / "out", "--engine", "loop")
    assert status == 0
    assert "--engine is now called --runner" in said
    assert "--engine" not in run("embed_corpus", corpus.location, tmp_path / "out")[2]
