"""`e5 serve` becomes Cog's server with this project's predictor, in an environment of its own."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import Run
from ports import free_port
from server import ROOT, serve
from waiting import SECONDS, wait_until

from e5.settings import Settings

MINI = ROOT / "weights/e5-mini"


Executed = list[tuple[list[str], dict[str, str], Path]]


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executed:
    """The commands, environments and folders that `e5 serve` became."""
    found: Executed = []

    def execve(_: str, command: list[str], environment: dict[str, str]) -> None:
        found.append((command, environment, Path.cwd()))
        raise OSError("replaced")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", execve)
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "127.0.0.1"), ({"HOST": "localhost"}, "127.0.0.1"), ({"HOST": "::"}, "[::]")],
)
def test_cog_s_server_runs_beside_the_predictor(
    given: dict[str, str],
    expected: str,
    executed: Executed,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = str(free_port())
    monkeypatch.setenv("PORT", f" {port} ")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run("serve")
    ((command, environment, folder),) = executed
    assert environment["PORT"] == port
    assert command == [sys.executable, "-m", "cog.server.http", "--host", expected]
    assert folder == ROOT
    assert environment["COG_PREDICT_TYPE_STUB"] == "predict.py:Predictor"
    assert environment["PATH"].startswith(f"{Path(sys.executable).parent}:")
    assert environment["PYTHONPATH"].split(":")[0] == str(ROOT)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("weights/mine", "{}/weights/mine"), ("/mine", "/mine"), ("", f"{{}}/{Settings.weights}")],
)
def test_relative_weights_and_adapters_are_the_caller_s(
    given: str,
    expected: str,
    executed: Executed,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv("E5_WEIGHTS", given)
    monkeypatch.setenv("E5_ADAPTER", given)
    run("serve")
    ((_, environment, _),) = executed
    assert environment["E5_WEIGHTS"] == expected.format(tmp_path)
    assert environment.get("E5_ADAPTER", "") == (expected.format(tmp_path) if given else "")


@pytest.mark.slow
def test_too_few_open_files_are_refused_before_cog_starts() -> None:
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-m", "e5", "serve"], preexec_fn=few, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        1,
        "ulimit -n: received 512 open files, and Cog's 256 slots need 868; allow 1024 (ulimit -n "
        "1024, docker run --ulimit nofile=1024).\n",
    )


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
            f"PORT: received {port}, where something listens already (at 127.0.0.1); "
            "use another port.\n"
        )
        command = probes["readinessProbe"]["exec"]["command"]
        command = [sys.executable, *(part.replace("5000", port) for part in command[1:])]
        assert subprocess.run(command, env=environ, timeout=60).returncode == 0
    assert subprocess.run(command, env=environ, timeout=60, capture_output=True).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_the_server_and_its_probe_understand_a_host(host: str, tmp_path: Path) -> None:
    port = str(free_port())
    environment = os.environ | {"E5_WEIGHTS": str(MINI), "HOST": host, "PORT": f" {port} "}
    probe = [ROOT / "scripts/probe"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([ROOT / "scripts/serve"], env=environment, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: (
                subprocess.run(probe, env=environment, stdout=subprocess.PIPE).stdout == b"READY\n"
            )
        )
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS) == 0
