"""The scripts a person runs: `predict` answers as the server does, `probe` tells the truth."""

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from conftest import load_script
from server import serve

from e5.errors import EngineError
from predict import Predictor

ROOT = Path(__file__).parent.parent
MINI = Path("weights/e5-mini")
NOTHING_GIVEN = dict.fromkeys(
    name for name in inspect.signature(Predictor.run).parameters if name not in ("self", "unknown")
)


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def predict_script() -> ModuleType:
    """`scripts/predict` as a module: its `main` runs here, without seconds of imports per run."""
    return load_script("predict")


def test_predict_takes_inputs_as_cog_predict_does_and_gives_the_server_s_answer() -> None:
    arguments = ["-i", "query=8", "-i", 'documents=["snow", "rain"]', "-i", "dimensions=4"]
    printed = run("predict", *arguments, "-i", "normalize=true", "--json", E5_WEIGHTS=str(MINI))
    assert printed.returncode == 0, printed.stderr
    inputs = {"query": "8", "documents": ["snow", "rain"], "dimensions": 4, "normalize": True}
    with serve(MINI) as server:
        assert json.loads(printed.stdout) == server.predict(inputs)["output"]


@pytest.mark.parametrize(
    ("arguments", "weights", "message"),
    [
        (["-i", "query=snow", "-i", "dimensions=many"], MINI, 'dimensions: received "many"; '),
        (["-i", "colour=red"], MINI, "colour: received an unknown input; "),
        (["-i", "query"], MINI, "-i query: received no value; write -i query=VALUE."),
        (["-i", "query=@nowhere.txt"], MINI, "nowhere.txt"),
        (["-i", "query=snow"], Path("nowhere"), "nowhere: there is no such weights folder; "),
    ],
)
def test_predict_ends_with_one_sentence_for_what_it_cannot_do(
    predict_script: ModuleType,
    arguments: list[str],
    weights: Path,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("E5_WEIGHTS", str(weights))
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    assert predict_script.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err


def test_predict_s_text_names_the_model_the_tokens_and_the_scores() -> None:
    arguments = ["-i", "query=what is snow", "-i", "document=frozen water"]
    printed = run("predict", *arguments, E5_WEIGHTS=str(MINI)).stdout.splitlines()
    assert printed[0].startswith("model   e5-mini@")
    assert "tokens)" in printed[1]
    assert float(printed[-1].removeprefix("scores")) > 0


def test_the_probe_lives_with_the_worker_and_dies_with_it() -> None:
    with serve(MINI) as server:
        port = str(server.client.base_url.port)
        alive = run("probe", PORT=port)
        assert (alive.returncode, alive.stdout) == (0, "READY\n")
        for children in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
            for worker in children.read_text().split():
                os.kill(int(worker), signal.SIGKILL)
        end = time.monotonic() + 30
        while (dead := run("probe", PORT=port)).returncode == 0 and time.monotonic() < end:
            time.sleep(0.1)
        assert (dead.returncode, dead.stdout) == (1, "UNHEALTHY\n")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.process.returncode = 0  # how a server ends without its worker is not the question


def test_the_probe_fails_where_nothing_listens() -> None:
    silent = run("probe", PORT="9")
    assert silent.returncode == 1
    assert silent.stdout.startswith("no answer")


def test_the_health_check_tells_of_a_broken_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    predictor = Predictor()
    predictor.setup()
    inputs = {"query": "snow", "dimensions": None, "task": ""}
    assert predictor.healthcheck()
    monkeypatch.setattr(predictor.embedder.engine, "compute", break_down)
    with pytest.raises(EngineError, match=r"^the engine failed; .* log has the reason\.$"):
        asyncio.run(predictor.run(**(NOTHING_GIVEN | inputs)))
    assert not predictor.healthcheck()
