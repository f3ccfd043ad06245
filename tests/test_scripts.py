"""The commands of a clone start as they should, and the probe tells the truth."""

import asyncio
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from fake_http import serve_http
from processes import children
from server import serve
from waiting import wait_until

from e5.errors import EngineError
from e5.settings import Settings
from predict import Predictor

ROOT = Path(__file__).parent.parent
MINI = ROOT / "weights/e5-mini"
NOTHING_GIVEN = dict.fromkeys(
    name for name in inspect.signature(Predictor.run).parameters if name not in ("self", "unknown")
)
COMMANDS = {  # what each installs and runs
    "audit": ("serve,search", "e5 audit"),
    "benchmark": ("benchmark", "benchmarks"),
    "build_index": ("search", "e5 build-index"),
    "download_weights": ("serve", "e5 download-weights"),
    "embed_corpus": ("corpus", "e5 embed-corpus"),
    "evaluate": ("train", "training.evaluate"),
    "gateway": ("gateway,serve", "e5 gateway"),
    "predict": ("serve", "e5 predict"),
    "search": ("serve,search", "e5 search"),
    "serve": ("serve", "e5 serve"),
    "train_mini": ("train", "training.train_mini"),
}


def run(
    *command: str | Path, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if k != "E5_WEIGHTS"} | environment
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120
    )


def test_no_script_imports_a_test_file_and_no_benchmark_the_training() -> None:
    tests = {file.stem for file in (ROOT / "tests").rglob("*.py")}
    for file in (ROOT / "scripts").rglob("*.py"):
        imported = re.findall(r"^ *(?:from|import) (\w+)", file.read_text(), re.MULTILINE)
        forbidden = tests | ({"training"} if file.parent.name == "benchmarks" else set())
        assert not forbidden & set(imported), file


# How commands start


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of launchers whose `install` and Python print their arguments, and its extras."""
    scripts = tmp_path / "a project" / "scripts"
    extras = scripts.parent / "e5/cli/extras.py"
    for folder in (scripts, scripts.parent / ".venv/bin", extras.parent):
        folder.mkdir(parents=True)
    for name in ("launch", *COMMANDS):
        shutil.copy(ROOT / "scripts" / name, scripts)
    shutil.copy(ROOT / "e5/cli/extras.py", extras)
    asked = f'case $2 in */extras.py) exec {sys.executable} "$@" ;; esac'
    stubs = {
        scripts / "install": 'echo "$@"',
        scripts.parent / ".venv/bin/python": (f'{asked}\nprintf "%s\\n" "$*" "$PWD" "$E5_WEIGHTS"'),
    }
    for path, body in stubs.items():
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return scripts.parent


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_installs_what_it_needs_and_runs_its_module_where_the_caller_stands(
    command: str, project: Path, tmp_path: Path
) -> None:
    link = tmp_path / "linked"
    link.symlink_to(project / "scripts" / command)
    extras, module = COMMANDS[command]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= declared["optional-dependencies"].keys()
    assert find_spec(module.partition(" ")[0]) is not None
    for path in (project / "scripts" / command, "./linked"):
        done = run(path, "one", "t w o", folder=tmp_path)
        assert done.stdout.splitlines()[:3] == [extras, f"-m {module} one t w o", str(tmp_path)]


def test_the_extras_are_those_of_the_options_before_anything_is_installed(project: Path) -> None:
    (project / ".venv/bin/python").unlink()
    arguments = ["--backend", "http://127.0.0.1:5000", "--index=i"]
    done = run(project / "scripts/gateway", *arguments, PYTHON=sys.executable)
    assert done.stdout.splitlines()[0] == "gateway,search"


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--sections", "card"], ["--sections=card"]])
def test_what_runs_the_tests_on_a_card_installs_them(project: Path, options: list[str]) -> None:
    done = run(project / "scripts/benchmark", *options, "--out", "card")
    assert done.stdout.splitlines()[0] == "test,benchmark"
    done = run(project / "scripts/benchmark", "--sections", "engine", "--out", "card")
    assert done.stdout.splitlines()[0] == "benchmark"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_command_imports_nothing_of_the_folder_it_is_called_in(tmp_path: Path) -> None:
    for name in ("json", "e5", "predict"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the wrong one')")
    (tmp_path / "mine").symlink_to(MINI)
    (tmp_path / "ask").symlink_to(ROOT / "scripts/predict")
    done = run("./ask", "-i", "query=snow", "--json", folder=tmp_path, E5_WEIGHTS="mine")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"].startswith("e5-mini@")


# The predictor


@pytest.mark.slow
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
        for worker in children(server.process.pid):
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: run("scripts/probe", PORT=port).returncode)
        dead = run("scripts/probe", PORT=port)
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


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, whose signals end nothing."""
    loader = SourceFileLoader("probe", str(ROOT / "scripts" / "probe"))
    spec = spec_from_loader("probe", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    module.sent = []  # type: ignore[attr-defined]  # what would have been sent
    monkeypatch.setattr("os.kill", lambda *signal: module.sent.append(signal))
    monkeypatch.setattr("time.sleep", lambda _: None)
    return module


COG_SERVER = b"/usr/bin/python3\0-m\0cog.server.http\0--host\x000.0.0.0\0"
TERM, KILL = (1, signal.SIGTERM), (-1, signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        (COG_SERVER, [TERM, KILL]),
        (b"/sbin/tini\0--\0python\0-m\0cog.server.http\0", [TERM, KILL]),
        (b"/usr/bin/python3\0/usr/local/bin/e5\0gateway\0", [TERM, KILL]),
        (b"/usr/bin/python3\0/usr/local/bin/e5\0gateway\0--backend\0http://cog:5000\0", []),
        (b"/usr/bin/python3\0/bin/e5\0gateway\0--backend=http://cog:5000\0", []),
        (b"/sbin/init\0", []),  # the container has the host's processes
        (b"", []),
    ],
)
def test_the_probe_ends_a_dead_server_and_nothing_else(
    command: bytes, sent: list[object], probe: ModuleType, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = tmp_path / "cmdline"
    first.write_bytes(command)
    with serve_http(lambda _: (200, {"status": "UNHEALTHY"})) as url:
        monkeypatch.setattr(probe, "PORT", url.rpartition(":")[2])
        assert probe.main(may_end=False, patience=0.0, first=first) == 1
        assert probe.sent == []
        assert probe.main(may_end=True, patience=0.0, first=first) == 1
        assert probe.sent == sent


@pytest.mark.parametrize("status", ["STARTING", "READY", "SETUP_FAILED", None])
def test_the_probe_does_not_end_what_starts_works_or_would_fail_again(
    status: str | None, probe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "cmdline"
    first.write_bytes(COG_SERVER)
    with serve_http(lambda _: (200, {"status": status})) as url:
        monkeypatch.setattr(probe, "PORT", url.rpartition(":")[2] if status else "9")
        probe.main(may_end=True, patience=0.0, first=first)
    assert probe.sent == []


def test_the_probe_does_not_end_a_server_that_looked_dead_for_a_moment(
    probe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "cmdline"
    first.write_bytes(COG_SERVER)
    statuses = iter(["UNHEALTHY", "UNHEALTHY", "READY"])
    with serve_http(lambda _: (200, {"status": next(statuses)})) as url:
        monkeypatch.setattr(probe, "PORT", url.rpartition(":")[2])
        assert probe.main(may_end=True, first=first) == 0
    assert probe.sent == []


@pytest.mark.slow
def test_the_probe_lets_a_busy_server_live() -> None:
    with serve(MINI, env={"COG_MAX_CONCURRENCY": "1"}) as server:
        port = str(server.client.base_url.port)
        texts = [f"{number} snow and rain" * 200 for number in range(1000)]  # many seconds
        long = {"id": "long", "input": {"documents": texts, "encoding_format": "base64"}}
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(server.client.post, "/predictions", json=long)
            wait_until(lambda: server.num_running() == 1)
            alive = run("scripts/probe", PORT=port)
            assert (alive.returncode, alive.stdout) == (0, "BUSY\n")
            assert server.client.post("/predictions/long/cancel").status_code == 200
            assert asked.result().json()["status"] == "canceled"
