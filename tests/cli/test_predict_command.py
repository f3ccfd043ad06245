"""`e5 predict` takes inputs as `cog predict` does and gives the server's answer."""

import json
from pathlib import Path

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


@pytest.mark.parametrize(
    ("arguments", "weights", "message"),
    [
        (["-i", "query=snow", "-i", "dimensions=many"], MINI, 'dimensions: received "many"; '),
        (["-i", "colour=red"], MINI, "colour: received an unknown input; "),
        (["-i", "query"], MINI, "-i query: received no value; write -i query=VALUE."),
        (["-i", "query=a", "-i", "query=b"], MINI, "-i query: received twice; write it once."),
        (["-i", "query=@nowhere.txt"], MINI, "-i query: received nowhere.txt, which cannot "),
        (["-i", "query=@bytes"], MINI, "-i query: received bytes, of which line 1 is not UTF-8 "),
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
    (tmp_path / "predict.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.setenv("E5_WEIGHTS", str(weights))
    done = run("predict", *arguments)
    assert (done.status, done.out) == (1, "")
    assert message in done.err.splitlines()[-1]


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
