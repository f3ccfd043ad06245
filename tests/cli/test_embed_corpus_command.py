"""`e5 embed-corpus` translates its options, and its last lines say what was done."""

import json
from pathlib import Path
from typing import get_args

import pytest
from commands import Run, embed_folder
from corpus_tools import texts, write_corpus

from e5.cli.embed_corpus_command import kept_column, worker_bounds
from e5.corpora import ROWS_PER_SHARD, Dtype
from e5.errors import InputError


def test_the_bounds_of_a_pool_are_a_number_or_two() -> None:
    assert worker_bounds("3") == (3, 3)
    assert worker_bounds("1:8") == (1, 8)
    for wrong in ("0", "", "two", "4:2", "1:2:3", "-1", ":3", "1:"):
        with pytest.raises(InputError, match=r"^workers: received"):
            worker_bounds(wrong)


@pytest.mark.parametrize(
    ("text", "column", "name"),
    [
        ("version", "version", None), ("version:text", "version", "text"),
        ("dc:title", "dc:title", None), ("dc:title:date", "dc:title", "date"),
        ("version:int", "version:int", None), (":text", ":text", None), ("text", "text", None),
        ("a:text:text", "a:text", "text"), ("version:", "version:", None),
    ],
)  # fmt: skip
def test_a_kept_column_may_name_its_type(text: str, column: str, name: str | None) -> None:
    assert kept_column(text) == (column, name)


def test_the_help_names_the_dtypes_and_the_default_of_the_rows(
    capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    with pytest.raises(SystemExit):
        run("embed-corpus", "--help")
    printed = capsys.readouterr().out
    for dtype in get_args(Dtype):
        assert dtype in printed
    assert f"the default is {ROWS_PER_SHARD}." in " ".join(printed.split())


@pytest.mark.slow
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
def test_an_error_names_the_option(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "in" / "a.jsonl", texts(3))
    done = run("embed-corpus", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--workers", "2"], "--workers and --ray-address are for --runner ray"),
        (["--ray-address", "a:1"], "--workers and --ray-address are for --runner ray"),
        (["--overlap", "2"], "--overlap is for --passages"),
        (["--engine", "loop"], "unrecognized arguments: --engine loop"),
    ],
)
def test_options_that_do_not_belong_together_are_a_usage_error(
    option: list[str], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("embed-corpus", "in", "out", *option)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


@pytest.mark.slow
def test_the_summary_says_what_was_computed_reused_and_removed(packages: Path, run: Run) -> None:
    out, path = packages / "out", packages / "in" / "all.tsv"
    arguments = (packages / "in", out, "--id-column", "name")
    assert embed_folder(run, *arguments) == (
        f"{out} holds 30 documents; 30 vectors computed, 0 reused; 0 documents removed"
    )
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[3:]]))
    more = packages / "in" / "more.jsonl"
    more.write_text(json.dumps({"name": "new", "text": "new"}) + "\n")
    assert embed_folder(run, *arguments) == (
        f"{out} holds 29 documents; 1 vectors computed, 0 reused; 2 documents removed"
    )
    other = (packages / "in", packages / "other", "--reuse", out, "--id-column", "name")
    assert "0 vectors computed, 29 reused; 0 documents removed" in embed_folder(run, *other)


def test_duplicates_are_named_in_the_last_lines(packages: Path, run: Run) -> None:
    more = packages / "in" / "more.jsonl"
    more.write_text(json.dumps({"name": "p3", "text": "newer"}) + "\n")
    done = run("embed-corpus", packages / "in", packages / "out", "--id-column", "name")
    assert done.status == 3
    assert "1 rows got no vector, because a later row has the same id: " in done.err
    assert "all.tsv:3 (p3)" in done.err


@pytest.mark.slow
def test_an_empty_corpus_asks_before_it_deletes(packages: Path, run: Run) -> None:
    arguments = (packages / "in", packages / "out", "--id-column", "name")
    embed_folder(run, *arguments)
    (packages / "in" / "all.tsv").unlink()
    done = run("embed-corpus", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("IN: received ")
    assert "--allow-empty" in done.err
    assert embed_folder(run, *arguments, "--allow-empty").endswith(
        "holds 0 documents; 0 vectors computed, 0 reused; 30 documents removed"
    )


@pytest.mark.slow
def test_what_is_kept_otherwise_is_said_and_can_be_named(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("text,version,year\nsnow,1.10,2024\nice,1E5,soon\n")
    done = run("embed-corpus", tmp_path / "in", tmp_path / "a", "--keep", "version", "year")
    assert done.status == 0
    said = "version is kept as numbers, 1.10 as 1.1; version:text keeps it as it is written"
    assert said in caplog.messages
    assert "year is kept as text, because it holds text, whole numbers" in caplog.messages
    caplog.clear()
    out, index = tmp_path / "b", tmp_path / "index"
    keep = ("--keep", "version:text", "year:integer")
    done = run("embed-corpus", tmp_path / "in", out, *keep)
    assert done.status == 0
    assert "kept as" not in caplog.text
    assert done.err.splitlines()[-1] == (
        "1 values of year cannot be kept, and are null; "
        'the first is in a.csv:1: "soon", which the type integer does not hold'
    )
    assert run("build-index", out, index).status == 0
    found = json.loads(run("search", index, "snow", "--json", "--where", "version = '1.10'").out)
    assert [(hit["version"], hit["year"]) for hit in found] == [("1.10", 2024)]
    done = run("embed-corpus", tmp_path / "in", out, "--keep", "version:number", "year:integer")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"--keep: received 'version:number'; {out} has string; name another")
