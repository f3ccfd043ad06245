"""`e5 search` finds what was embedded and indexed, and prints it for people or for programs."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from checkpoints import load
from commands import Run, embed_folder
from corpus_tools import ROOT, embed, texts, write_corpus, write_rows
from gateway_server import WEIGHTS
from server import serve

from e5.corpora import Index, Recipe
from e5.embedder import Embedder
from e5.settings import Settings


@pytest.fixture
def index(packages: Path, run: Run) -> Path:
    """An index of `packages` with its kept columns."""
    columns = ("--id-column", "name", "--keep", "kb", "section")
    embed_folder(run, packages / "in", packages / "out", *columns)
    assert run("build-index", packages / "out", packages / "index").status == 0
    return packages / "index"


@pytest.mark.slow
def test_from_documents_to_a_search(tmp_path: Path, embedder: Embedder, run: Run) -> None:
    rows = [*texts(40), "a cat sleeps\non the sofa"]
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    out, index = tmp_path / "out", tmp_path / "index"
    done = run("embed-corpus", corpus.location, out, "--id-column", "id")
    assert done.status == 0
    assert done.out.startswith("41 documents, ")
    assert f"holds 41 documents by {embedder.name}; " in run("build-index", out, index).out
    done = run("search", index, rows[7], "--task", "", "--top", 3)
    assert done.status == 0
    head, first, *others = done.out.splitlines()
    assert head.split() == ["rank", "score", "id", "text"]
    assert first.split()[:3] == ["1", "100.0", "a-7"]
    assert len(others) == 2
    done = run("search", index, rows[40], "--task", "", "--top", 2, "--json")
    best, second = json.loads(done.out)
    assert (best["id"], best["text"]) == ("a-40", rows[40])
    assert best["score"] == pytest.approx(100, abs=0.1)
    assert second["score"] < best["score"]


def test_a_query_carries_the_task_of_a_symmetric_corpus(
    tmp_path: Path, embedder: Embedder, run: Run
) -> None:
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder, Recipe(task="sts_query", dimensions=16))
    run("build-index", tmp_path / "out", tmp_path / "index")
    (best,) = json.loads(run("search", tmp_path / "index", rows[3], "--json", "--top", 1).out)
    assert best["id"] == "a-3"
    assert best["score"] == pytest.approx(100, abs=0.1)


@pytest.mark.slow
def test_a_query_of_other_weights_is_refused(
    index: Path, embedder: Embedder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("search", index, "snow", "--top", 0).status == 1
    monkeypatch.setenv("E5_WEIGHTS", str(ROOT / "weights/e5-mini"))
    done = run("search", index, "snow")
    assert (done.status, done.out) == (1, "")
    assert "E5_WEIGHTS: received e5-mini@" in done.err
    assert f"made by {embedder.name}" in done.err


@pytest.mark.parametrize("queries", [[], ["snow", "--queries", "file"]])
def test_a_search_has_a_query_or_a_file_of_them(
    queries: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("search", "index", *queries)
    assert stopped.value.code == 2
    assert "name one QUERY, or a file of them by --queries" in capsys.readouterr().err


@pytest.mark.slow
def test_kept_columns_filter_the_hits_and_are_printed(index: Path, run: Run) -> None:
    where = "kb >= 1000 and section = 'utils'"
    found = json.loads(run("search", index, "snow", "--where", where, "--json").out)
    assert len(found) == 10
    assert all(set(hit) == {"id", "score", "text", "kb", "section"} for hit in found)
    assert all(hit["kb"] >= 1000 and hit["section"] == "utils" for hit in found)
    head, first, _ = run("search", index, "snow", "--where", where, "--top", 2).out.splitlines()
    assert head.split() == ["rank", "score", "id", "kb", "section", "text"]
    assert first.split()[4] == "utils"
    done = run("search", index, "snow", "--where", "mb > 1")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("--where: received mb > 1 (")
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_passages_are_printed_or_the_best_of_each_document(packages: Path, run: Run) -> None:
    passages = ("--passages", 12, "--overlap", 2)
    embed_folder(run, packages / "in", packages / "out", "--id-column", "name", *passages)
    run("build-index", packages / "out", packages / "index")
    search = ("search", packages / "index", "winter", "--json", "--top", 60)
    hits = json.loads(run(*search).out)
    assert len(hits) > 30
    assert all(hit["id"].rpartition("#")[0] == hit["document"] for hit in hits)
    best = json.loads(run(*search, "--per-document").out)
    assert sorted(hit["document"] for hit in best) == sorted(f"p{i}" for i in range(30))
    assert best[0] == hits[0]


@pytest.mark.slow
def test_many_queries_are_answered_with_one_load(
    index: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Settings] = []
    load = Embedder.load

    def counted(settings: Settings) -> Embedder:
        loads.append(settings)
        return load(settings)

    monkeypatch.setattr(Embedder, "load", counted)
    file = tmp_path / "queries"
    file.write_text("snow\n\nrain in winter\n")
    lines = run("search", index, "--queries", file, "--top", 2).out.splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["query"] for answer in answers] == ["snow", "rain in winter"]
    assert all(len(answer["hits"]) == 2 for answer in answers)
    assert len(loads) == 1
    hits = json.loads(run("search", index, "rain in winter", "--top", 2, "--json").out)
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in answers[1]["hits"]]
    file.write_text("snow\n\n" + "x" * 1_000_001)
    done = run("search", index, "--queries", file)
    assert done.status == 1
    assert done.err.startswith(f"{file}, line 3: received 1000001 characters")


def strictly(text: str) -> Any:
    """What JSON says, for a parser that knows no NaN, as all but Python's are."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    parsed = json.loads(text, parse_constant=refuse)
    assert orjson.loads(text) == parsed
    return parsed


@pytest.mark.slow
def test_what_is_printed_is_json_for_every_parser(packages: Path, run: Run) -> None:
    (packages / "in" / "all.tsv").unlink()
    numbers = {"a": math.nan, "b": math.inf, "c": -math.inf, "d\x00\u2028\x7f🙂": 1.5}
    rows = [{"name": name, "text": f"snow {name}", "a.b": n} for name, n in numbers.items()]
    write_rows(packages / "in" / "a.jsonl", rows)
    columns = ("--id-column", "name", "--keep", "a.b")
    embed_folder(run, packages / "in", packages / "out", *columns)
    run("build-index", packages / "out", packages / "index")
    expected = dict.fromkeys("abc") | {"d\x00\u2028\x7f🙂": 1.5}
    hits = strictly(run("search", packages / "index", "snow", "--json").out)
    assert {hit["id"]: hit["a.b"] for hit in hits} == expected
    (packages / "queries").write_text("snow\u2028\x07", encoding="utf-8-sig")
    (line,) = run("search", packages / "index", "--queries", packages / "queries").out.splitlines()
    answer = strictly(line)
    assert answer["query"] == "snow\u2028\x07"
    assert {hit["id"]: hit["a.b"] for hit in answer["hits"]} == expected


@pytest.mark.slow
def test_columns_of_any_name_are_printed_in_cells(packages: Path, run: Run) -> None:
    (packages / "in" / "all.tsv").unlink()
    values = {"": 1, "--x": 22, "a\x1b[2J\nb": 333, "x" * 200: 4444, " a": "long value"}
    write_rows(packages / "in" / "a.jsonl", [{"text": "snow", **values}])
    keep = [f"--keep={name}" for name in list(values)[:2]] + ["--keep", *list(values)[2:]]
    embed_folder(run, packages / "in", packages / "out", *keep)
    run("build-index", packages / "out", packages / "index")
    head, hit = run("search", packages / "index", "snow").out.splitlines()
    assert head.startswith("rank  score  id            --x  a [2J b  " + "x" * 24 + "  a   ")
    assert hit.split()[2:8] == ["a.jsonl:0", "1", "22", "333", "4444", "long"]
    assert hit.index("long value") == head.rindex("  a ") + 2
    where = "`` = 1 and `--x` = 22 and ` a` = 'long value'"
    (found,) = json.loads(run("search", packages / "index", "tea", "--json", "--where", where).out)
    assert {name: found[name] for name in values} == values


@pytest.mark.slow
def test_no_text_of_a_corpus_moves_the_cursor(packages: Path, run: Run) -> None:
    rows = [{"name": "a\x1b[2J\nb", "text": "snow\x1b]0;title\x07", "kb": "\x1b[31m"}]
    (packages / "in" / "all.tsv").unlink()
    write_rows(packages / "in" / "a.jsonl", rows)
    columns = ("--id-column", "name", "--keep", "kb")
    embed_folder(run, packages / "in", packages / "out", *columns)
    run("build-index", packages / "out", packages / "index")
    printed = run("search", packages / "index", "snow").out
    assert printed.count("\n") == 2
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
