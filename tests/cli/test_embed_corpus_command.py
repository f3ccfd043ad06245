"""embed_corpus, build_index and search, as a person runs them."""

import json
import os
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from checkpoints import load
from corpus_tools import (
    ROOT,
    embed,
    texts,
    write_corpus,
    write_rows,
)
from gateway_server import WEIGHTS
from server import serve

from commands.embed_corpus import workers
from e5.corpora.index import Index
from e5.corpora.shard_folder import Recipe
from e5.embedder import Embedder
from e5.errors import InputError
from e5.settings import Settings


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


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with one TSV."""
    rows = [
        {"name": f"p{i}", "kb": 100 * i, "section": "libs" if i % 2 else "utils", "text": text}
        for i, text in enumerate(texts(30))
    ]
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "all.tsv", rows)
    return tmp_path


def embedded(run: Run, place: Path, *options: object) -> str:
    status, printed, said = run(
        "embed_corpus", place / "in", place / "out", "--id-column", "name", *options
    )
    assert status == 0, said
    return printed.splitlines()[1]


def test_kept_columns_are_carried_filtered_and_shown(packages: Path, run: Run) -> None:
    embedded(run, packages, "--keep", "kb", "section")
    assert run("build_index", packages / "out", packages / "index")[0] == 0
    where = "kb >= 1000 and section = 'utils'"
    _, printed, _ = run("search", packages / "index", "snow", "--where", where, "--json")
    found = json.loads(printed)
    assert len(found) == 10
    assert all(set(hit) == {"id", "score", "text", "kb", "section"} for hit in found)
    assert all(hit["kb"] >= 1000 and hit["section"] == "utils" for hit in found)
    _, printed, _ = run("search", packages / "index", "snow", "--where", where, "--top", 2)
    head, first, _ = printed.splitlines()
    assert head.split() == ["rank", "score", "id", "kb", "section", "text"]
    assert first.split()[4] == "utils"
    status, printed, said = run("search", packages / "index", "snow", "--where", "mb > 1")
    assert (status, printed) == (1, "")
    assert said.startswith("--where: received mb > 1 (")
    assert said.count("\n") == 1


def test_the_summary_says_what_was_computed_reused_and_removed(packages: Path, run: Run) -> None:
    out, path = packages / "out", packages / "in" / "all.tsv"
    assert embedded(run, packages) == (
        f"{out} holds 30 documents; 30 vectors computed, 0 reused; 0 documents removed"
    )
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0].replace("text", "text"), *lines[3:]]))
    more = packages / "in" / "more.jsonl"
    more.write_text(json.dumps({"name": "new", "text": "new"}) + "\n")
    assert embedded(run, packages) == (
        f"{out} holds 29 documents; 1 vectors computed, 0 reused; 2 documents removed"
    )
    status, printed, _ = run(
        "embed_corpus", packages / "in", packages / "other", "--reuse", out, "--id-column", "name"
    )
    assert status == 0
    assert "0 vectors computed, 29 reused; 0 documents removed" in printed


def test_duplicates_are_named_in_the_last_lines(packages: Path, run: Run) -> None:
    more = packages / "in" / "more.jsonl"
    more.write_text(json.dumps({"name": "p3", "text": "newer"}) + "\n")
    status, _, said = run("embed_corpus", packages / "in", packages / "out", "--id-column", "name")
    assert status == 3
    assert "1 rows have an id that comes again later; the last row of an id counts: " in said
    assert "all.tsv:3 (p3)" in said


def test_an_empty_corpus_asks_before_it_deletes(packages: Path, run: Run) -> None:
    embedded(run, packages)
    (packages / "in" / "all.tsv").unlink()
    arguments = ("embed_corpus", packages / "in", packages / "out", "--id-column", "name")
    status, printed, said = run(*arguments)
    assert (status, printed) == (1, "")
    assert said.startswith("IN: received ")
    assert "--allow-empty" in said
    status, printed, _ = run(*arguments, "--allow-empty")
    assert status == 0
    assert "holds 0 documents; 0 vectors computed, 0 reused; 30 documents removed" in printed


def test_passages_are_shown_and_the_best_of_each_document(packages: Path, run: Run) -> None:
    embedded(run, packages, "--passages", 12, "--overlap", 2)
    run("build_index", packages / "out", packages / "index")
    _, printed, _ = run("search", packages / "index", "winter", "--json", "--top", 60)
    every = json.loads(printed)
    assert len(every) > 30
    assert all(hit["id"].rpartition("#")[0] == hit["document"] for hit in every)
    _, printed, _ = run(
        "search", packages / "index", "winter", "--json", "--top", 60, "--per-document"
    )
    best = json.loads(printed)
    assert sorted(hit["document"] for hit in best) == sorted(f"p{i}" for i in range(30))
    assert best[0] == every[0]


def test_many_queries_are_answered_with_one_load(
    packages: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded(run, packages)
    run("build_index", packages / "out", packages / "index")
    loads: list[Settings] = []
    load = Embedder.load

    def counted(settings: Settings) -> Embedder:
        loads.append(settings)
        return load(settings)

    monkeypatch.setattr(Embedder, "load", counted)
    (packages / "queries").write_text("snow\n\nrain in winter\n")
    _, printed, _ = run("search", packages / "index", "--queries", packages / "queries", "--top", 2)
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [answer["query"] for answer in answers] == ["snow", "rain in winter"]
    assert all(len(answer["hits"]) == 2 for answer in answers)
    assert len(loads) == 1
    _, printed, _ = run("search", packages / "index", "rain in winter", "--top", 2, "--json")
    assert [hit["id"] for hit in json.loads(printed)] == [hit["id"] for hit in answers[1]["hits"]]
    (packages / "queries").write_text("snow\n" + "x" * 1_000_001)
    status, _, said = run("search", packages / "index", "--queries", packages / "queries")
    assert status == 1
    assert said.startswith(f"{packages / 'queries'}, query 2: received 1000001 characters")


def test_nothing_of_a_corpus_moves_the_cursor(packages: Path, run: Run) -> None:
    rows = [{"name": "a\x1b[2J\nb", "text": "snow\x1b]0;title\x07", "kb": "\x1b[31m"}]
    write_rows(packages / "in" / "all.tsv", [])
    (packages / "in" / "all.tsv").unlink()
    write_rows(packages / "in" / "a.jsonl", rows)
    embedded(run, packages, "--keep", "kb")
    run("build_index", packages / "out", packages / "index")
    _, printed, _ = run("search", packages / "index", "snow")
    assert "\x1b" not in printed
    assert "\x07" not in printed


@pytest.mark.slow
def test_a_running_service_embeds_the_query(tmp_path: Path) -> None:
    mini = load(WEIGHTS)
    folder = embed(write_corpus(tmp_path / "in" / "a.jsonl", texts(9)), tmp_path / "out", mini)
    index = Index.build(folder, str(tmp_path / "index"))
    command = [str(ROOT / "scripts/search"), str(tmp_path / "index"), "snow", "--json"]
    environment = os.environ | {"E5_WEIGHTS": str(tmp_path / "nowhere")}
    with serve(WEIGHTS, env={"E5_DTYPE": "float32"}) as server:
        url = str(server.client.base_url)
        printed = subprocess.check_output([*command, "--url", url], env=environment, text=True)
    found = [hit["id"] for hit in json.loads(printed)]
    assert found == [hit.id for hit in index.find(mini, "snow")]
    with serve(WEIGHTS, env={"E5_DTYPE": "bfloat16"}) as server:
        url = str(server.client.base_url)
        done = subprocess.run([*command, "--url", url], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("--url: received e5-mini@")
