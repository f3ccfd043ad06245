"""The commands that a person runs start as they should; `predict` and `probe` tell the truth."""

import asyncio
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from server import free_port, serve

from e5.cli import main
from e5.errors import EngineError
from e5.settings import Settings
from predict import Predictor

ROOT = Path(__file__).parent.parent
MINI = ROOT / "weights/e5-mini"
NOTHING_GIVEN = dict.fromkeys(
    name for name in inspect.signature(Predictor.run).parameters if name not in ("self", "unknown")
)
COMMANDS = {  # what each installs and runs
    "benchmark": ("benchmark", "benchmarks"),
    "build_index": ("search", "commands.build_index"),
    "download_weights": ("serve", "commands.download_weights"),
    "embed_corpus": ("corpus", "commands.embed_corpus"),
    "evaluate": ("train", "training.evaluate"),
    "gateway": ("gateway,serve", "commands.gateway"),
    "predict": ("serve", "commands.predict"),
    "search": ("serve,search", "commands.search"),
    "train_mini": ("train", "training.train_mini"),
}


def run(
    *command: str | Path, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if k != "E5_WEIGHTS"} | environment
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120
    )


def test_the_rooms_import_no_test_files_and_the_benchmarks_nothing_of_the_training() -> None:
    tests = {file.stem for file in (ROOT / "tests").rglob("*.py")}
    for file in (ROOT / "scripts").rglob("*.py"):
        imported = re.findall(r"^ *(?:from|import) (\w+)", file.read_text(), re.MULTILINE)
        forbidden = tests | ({"training"} if file.parent.name == "benchmarks" else set())
        assert not forbidden & set(imported), file


# How commands start


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of launchers; its `install` and its Python only say what they were told."""
    scripts = tmp_path / "a project" / "scripts"
    (scripts.parent / ".venv/bin").mkdir(parents=True)
    scripts.mkdir()
    for name in ("launch", "serve", *COMMANDS):
        shutil.copy(ROOT / "scripts" / name, scripts)
    stubs = {
        scripts / "install": 'echo "$@"',
        scripts.parent / ".venv/bin/python": 'printf "%s\\n" "$*" "$PWD" "$E5_WEIGHTS"',
    }
    for path, body in stubs.items():
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return scripts.parent


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_installs_what_it_needs_and_runs_its_module_where_the_caller_stands(
    command: str, project: Path, tmp_path: Path
) -> None:
    link = tmp_path / "linked"
    link.symlink_to(project / "scripts" / command)
    extras, module = COMMANDS[command]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= declared["optional-dependencies"].keys()
    assert find_spec(module) is not None
    for path in (project / "scripts" / command, "./linked"):
        done = run(path, "one", "t w o", folder=tmp_path)
        assert done.stdout.splitlines()[:3] == [extras, f"-m {module} one t w o", str(tmp_path)]


@pytest.mark.parametrize(
    "option", [["--runner", "ray"], ["--runner=ray"], ["--engine", "ray"], ["--engine=ray"]]
)
def test_a_cluster_is_installed_only_for_those_who_ask_for_one(
    option: list[str], project: Path
) -> None:
    done = run(project / "scripts/embed_corpus", "in", "out", *option)
    assert done.stdout.splitlines()[0] == "cluster"


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["--backend", "http://127.0.0.1:5000"], "gateway"),
        (["--backend=replicate:you/e5", "--index", "i"], "gateway,search"),
        (["--index=i", "--alias", "a=b"], "gateway,serve,search"),
    ],
)
def test_a_gateway_installs_torch_only_where_it_computes(
    arguments: list[str], extras: str, project: Path
) -> None:
    done = run(project / "scripts/gateway", *arguments)
    assert done.stdout.splitlines()[0] == extras


@pytest.mark.parametrize("command", ["predict", "serve"])
def test_relative_weights_are_the_caller_s_and_the_default_ones_the_project_s(
    command: str, project: Path, tmp_path: Path
) -> None:
    ours = str(project / Settings().weights)
    for given, expected in {
        "weights/mine": f"{tmp_path}/weights/mine",
        "/weights/mine": "/weights/mine",
        "": ours,
    }.items():
        done = run(project / "scripts" / command, folder=tmp_path, E5_WEIGHTS=given)
        assert done.stdout.splitlines()[-1] == expected
    assert run(project / "scripts" / command, folder=tmp_path).stdout.splitlines()[-1] == ours


def test_the_server_runs_in_the_project_s_folder(project: Path, tmp_path: Path) -> None:
    done = run(project / "scripts/serve", folder=tmp_path, HOST="0.0.0.0")
    assert done.stdout.splitlines()[1:3] == [
        "-m cog.server.http --host 0.0.0.0",
        str(project),
    ]


@pytest.mark.slow
def test_a_command_imports_nothing_of_the_folder_it_is_called_in(tmp_path: Path) -> None:
    for name in ("json", "e5", "predict"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the wrong one')")
    (tmp_path / "mine").symlink_to(MINI)
    (tmp_path / "ask").symlink_to(ROOT / "scripts/predict")
    done = run("./ask", "-i", "query=snow", "--json", folder=tmp_path, E5_WEIGHTS="mine")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"].startswith("e5-mini@")


# predict


@pytest.mark.slow
def test_a_second_server_on_a_port_is_refused_and_the_page_s_readiness_probe_sees_the_first() -> (
    None
):
    """Also where the environment names a proxy, which cannot reach this machine's loopback."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    probes = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    with serve(MINI) as server:
        port = str(server.client.base_url.port)
        environ = os.environ | {"PORT": port, "http_proxy": "http://127.0.0.1:9"}
        second = subprocess.run(
            [ROOT / "scripts" / "serve"], env=environ, capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1
        assert second.stderr == (
            f"127.0.0.1:{port}: something listens there already; choose another PORT.\n"
        )
        command = probes["readinessProbe"]["exec"]["command"]
        command = [sys.executable, *(part.replace("5000", port) for part in command[1:])]
        assert subprocess.run(command, env=environ, timeout=60).returncode == 0
    assert subprocess.run(command, env=environ, timeout=60, capture_output=True).returncode == 1


def test_predict_takes_inputs_as_cog_predict_does_and_gives_the_server_s_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-i", "query=8", "-i", 'documents=["snow", "rain"]', "-i", "dimensions=4"]
    arguments += ["-i", "documents=sun", "-i", "documents=7"]  # they add up
    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    monkeypatch.setattr(sys, "argv", ["predict", *arguments, "-i", "normalize=true", "--json"])
    assert predict.main() == 0
    documents = ["snow", "rain", "sun", "7"]
    inputs = {"query": "8", "documents": documents, "dimensions": 4, "normalize": True}
    with serve(MINI) as server:
        assert json.loads(capsys.readouterr().out) == server.predict(inputs)["output"]


@pytest.mark.parametrize(
    ("arguments", "weights", "message"),
    [
        (["-i", "query=snow", "-i", "dimensions=many"], MINI, 'dimensions: received "many"; '),
        (["-i", "colour=red"], MINI, "colour: received an unknown input; "),
        (["-i", "query"], MINI, "-i query: received no value; write -i query=VALUE."),
        (["-i", "query=a", "-i", "query=b"], MINI, "-i query: received twice; write it once."),
        (["-i", "query=@nowhere.txt"], MINI, "nowhere.txt"),
        (["-i", "query=snow"], Path("nowhere"), "nowhere: there is no such weights folder; "),
    ],
)
def test_predict_ends_with_one_sentence_for_what_it_cannot_do(
    arguments: list[str],
    weights: Path,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("E5_WEIGHTS", str(weights))
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    assert predict.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err


def test_predict_s_text_names_the_model_the_tokens_and_the_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    arguments = ["-i", "query=what is snow", "-i", "document=frozen water"]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    assert predict.main() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("model   e5-mini@")
    assert "tokens)" in printed[1]
    assert float(printed[-1].removeprefix("scores")) > 0


def test_the_health_check_tells_of_a_broken_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setenv("E5_WEIGHTS", str(MINI))
    predictor = Predictor()
    predictor.setup()
    inputs = {"query": "snow", "dimensions": None, "task": ""}
    assert predictor.healthcheck()
    monkeypatch.setattr("e5.engine.Engine.compute", break_down)
    with pytest.raises(EngineError, match=r"^the engine failed; .* log has the reason\.$"):
        asyncio.run(predictor.run(**(NOTHING_GIVEN | inputs)))
    assert not predictor.healthcheck()


# probe


@pytest.mark.slow
def test_the_probe_lives_with_the_worker_and_dies_with_it() -> None:
    with serve(MINI) as server:
        port = str(server.client.base_url.port)
        alive = run("scripts/probe", PORT=port)
        assert (alive.returncode, alive.stdout) == (0, "READY\n")
        for children in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
            for worker in children.read_text().split():
                os.kill(int(worker), signal.SIGKILL)
        end = time.monotonic() + 60
        while (dead := run("scripts/probe", PORT=port)).returncode == 0 and time.monotonic() < end:
            time.sleep(0.1)
        assert (dead.returncode, dead.stdout) == (1, "UNHEALTHY\n")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.process.returncode = 0  # how a server ends without its worker is not the question


def test_the_probe_fails_where_nothing_listens() -> None:
    silent = run("scripts/probe", PORT="9")
    assert silent.returncode == 1
    assert silent.stdout.startswith("no answer")


@pytest.mark.slow
def test_the_probe_finds_slots_that_are_lost() -> None:
    with serve(MINI, env={"COG_MAX_CONCURRENCY": "2"}, stop=False) as server:
        port = str(server.client.base_url.port)
        lost = {"id": "x" * 256, "input": {"query": "snow"}}  # no folder can have that name
        for _ in range(2):
            assert "Failed to create" in server.client.post("/predictions", json=lost).text
        assert server.client.post("/predictions", json={"input": {"query": "a"}}).status_code == 409
        dead = run("scripts/probe", PORT=port)
        assert (dead.returncode, dead.stdout) == (1, "BUSY, and nothing runs\n")


@pytest.mark.slow
def test_the_probe_lets_a_busy_server_live() -> None:
    with serve(MINI, env={"COG_MAX_CONCURRENCY": "1"}) as server:
        port = str(server.client.base_url.port)
        long = {"input": {"documents": ["snow and rain " * 300] * 600, "encoding_format": "base64"}}
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(server.client.post, "/predictions", json=long)
            server.wait_for("BUSY")
            alive = run("scripts/probe", PORT=port)
            assert (alive.returncode, alive.stdout) == (0, "BUSY\n")
            assert asked.result().json()["status"] == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_server_and_its_probe_understand_a_host(host: str, tmp_path: Path) -> None:
    port = str(free_port())
    environment = os.environ | {"E5_WEIGHTS": str(MINI), "HOST": host, "PORT": port}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([ROOT / "scripts/serve"], env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while (seen := run("scripts/probe", PORT=port, HOST=host)).stdout != "READY\n":
            assert time.monotonic() < end, seen.stdout
            time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
