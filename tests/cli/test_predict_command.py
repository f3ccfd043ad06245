"""`e5 predict` takes inputs as `cog predict` does and gives the server's answer."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from server import ROOT, serve

MINI = ROOT / "weights/e5-mini"


@pytest.mark.slow
def test_inputs_are_those_of_cog_predict_and_the_answer_is_the_server_s(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    monkeypatch.delenv("E5_DTYPE")
    arguments = ["-i", "query=8", "-i", 'documents=["snow", "rain"]', "-i", "dimensions=4"]
    arguments += ["-i", "documents=sun", "-i", "documents=7"]  # they add up
    done = run("predict", *arguments, "-i", "normalize=true", "--json")
    assert done.status == 0
    documents = ["snow", "rain", "sun", "7"]
    inputs = {"query": "8", "documents": documents, "dimensions": 4, "normalize": True}
    with serve(MINI) as server:
        assert json.loads(done.out) == server.predict(inputs)["output"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "weights", "message"),
    [
        (["-i", "query=snow", "-i", "dimensions=many"], MINI, 'dimensions: received "many"; '),
        (["-i", "colour=red"], MINI, "colour: received an unknown input; "),
        ([], Path("nowhere"), "-i: received no input; write at least one, as in -i query="),
        (["--json"], Path("nowhere"), "-i: received no input; write at least one, as in -i query="),
        (["-i", "query"], MINI, "-i query: received no value; write -i query=VALUE."),
        (["-i", "query=a", "-i", "query=b"], MINI, "-i query: received twice; write it once."),
        (
            ["-i", "query=@nowhere.txt"],
            MINI,
            "-i query: received @nowhere.txt, which cannot be read",
        ),
        (["-i", "query=@"], MINI, "-i query: received @, which cannot be read (Is a directory); "),
        (
            ["-i", "query=@bytes"],
            MINI,
            "query: received application/octet-stream of 1 bytes, which",
        ),
        (
            ["-i", "documents=@text.md", "-i", "documents=@bytes"],
            MINI,
            "documents[1]: received app",
        ),
        (["--json", "@nowhere.json"], MINI, "--json: received @nowhere.json, which cannot be read"),
        (
            ["--json", '{"query": "@nowhere"}'],
            MINI,
            "--json query: received @nowhere, which cannot",
        ),
        (["--json", "query"], MINI, "--json: received query, which is not JSON (Expecting value"),
        (["--json", "@bytes"], MINI, "--json: received @bytes, which is not JSON ('utf-8' codec"),
        (["--json", '["query"]'], MINI, '--json: received ["query"]; write an object of inputs.'),
        (["-i", "query=snow"], Path("nowhere"), "nowhere: there is no such weights folder; "),
    ],
)
def test_one_sentence_says_what_cannot_be_done(
    arguments: list[str],
    weights: Path,
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "text.md").write_text("text")
    (tmp_path / "predict.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.setenv("E5_WEIGHTS", str(weights))
    done = run("predict", *arguments)
    assert (done.status, done.out) == (1, "")
    assert message in done.err.splitlines()[-1]


def answer_to(run: Run, *arguments: str) -> dict[str, Any]:
    done = run("predict", *arguments)
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


@pytest.mark.slow
def test_a_file_is_the_text_that_it_holds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "query.txt").write_text("\ufeffwhat is snow", encoding="utf-8")
    (tmp_path / "a.md").write_text("Frozen\nwater é.\n", encoding="utf-8")
    (tmp_path / "list.json").write_text('["a", "b"]')
    (tmp_path / "task").write_text("sts_query\n")
    truth = answer_to(
        run,
        *("-i", "query=what is snow", "-i", "document=Frozen\nwater é.\n", "-i", "task=sts_query"),
        *("-i", 'documents=["[\\"a\\", \\"b\\"]", "snow"]', "--json"),
    )
    files = {"query": "@query.txt", "document": "@a.md", "task": "@task"}
    options = [option for name, file in files.items() for option in ("-i", f"{name}={file}")]
    lists = ["-i", "documents=@~/list.json", "-i", "documents=snow"]
    assert answer_to(run, *options, *lists, "--json") == truth
    inputs = json.dumps(files | {"documents": ['["a", "b"]', "snow"]})
    assert answer_to(run, "--json", inputs) == truth
    (tmp_path / "inputs.json").write_text(inputs)
    assert answer_to(run, "--json", "@inputs.json") == truth
    for name in ("-", "@-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(inputs.encode())))
        assert answer_to(run, "--json", name) == truth


def test_inputs_are_written_in_one_way(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("predict", "-i", "query=a", "--json", "@-")
    assert stopped.value.code == 2
    assert "write the inputs by -i or as the INPUTS of --json" in capsys.readouterr().err


def test_the_text_names_the_model_the_tokens_and_the_scores(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    done = run("predict", "-i", "query=what is snow", "-i", "document=frozen water")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("model   e5-mini@")
    assert "tokens)" in lines[1]
    assert float(lines[-1].removeprefix("scores")) > 0
