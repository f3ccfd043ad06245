"""The command `e5`: help, version, errors in one sentence, and what an installed wheel does."""

import os
import resource
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import httpx2
import pytest
from commands import Run
from ports import free_port
from server import START_SECONDS

from e5.cli import download_weights_command
from e5.cli.extras import SUBCOMMANDS
from e5.errors import InputError

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "pydantic", "cog", "pyarrow", "uvicorn", "tokenizers", "httpx2"}


def python(*arguments: str, folder: Path) -> CompletedProcess[str]:
    """A process of this interpreter that finds the package."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("E5_")}
        | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_help_names_every_subcommand(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 0
        printed = capsys.readouterr().out
        for name, text in SUBCOMMANDS.items():
            assert f"  {name} " in printed
            assert text in printed


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_each_subcommand_has_a_module_and_its_help(
    command: str, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: e5 {command} ")
    assert rest.splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((256, -1), 4096), ((256, 2000), 2000), ((867, 868), 868), ((1024, -1), 1024)],
)
def test_every_subcommand_may_open_many_files(
    limits: tuple[int, int], expected: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soft limit of macOS is 256."""
    set_to = [limits[0]]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: set_to.append(values[0]))
    with pytest.raises(SystemExit):
        run("serve", "--help")
    assert set_to[-1] == expected


def test_the_version_is_that_of_the_package(run: Run) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").out == f"e5-mistral-service {declared}\n"


@pytest.mark.parametrize("arguments", [["gatewy"], ["--backend"], ["serve", "--engine"]])
def test_arguments_that_cannot_be_understood_are_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: e5 ")


@pytest.mark.slow
def test_no_help_needs_any_other_package_and_the_sentence_names_the_missing_extras(
    tmp_path: Path,
) -> None:
    """`-S`: without the packages that are installed."""
    for command in ("", *SUBCOMMANDS):
        done = python("-S", "-m", "e5", *command.split(), "--help", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    for arguments, extras in {
        ("serve",): "serve",
        ("gateway", "--backend", "http://127.0.0.1:1"): "gateway",
        ("gateway", "--index", "i"): "gateway,serve,search",
        ("embed-corpus", "in", "out", "--runner", "ray"): "cluster",
    }.items():
        done = python("-S", "-m", "e5", *arguments, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        install = f'pip install "e5-mistral-service[{extras}]"'
        assert done.stderr == f"e5 {arguments[0]} needs more packages: run {install}\n"


def test_the_command_line_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, e5.cli, e5.__main__; from e5.cli import main; print(*sys.modules)"
    done = python("-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"e5.cli.entry", "e5.cli.extras"} <= loaded
    assert not HEAVY & loaded
    assert not {name for name in loaded if name.endswith("_command")}


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (InputError("name", "7", "use another"), 1, "name: received 7; use another."),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; what is finished is kept, run it again to continue",
        ),
    ],
)
def test_an_error_is_one_sentence_and_a_status(
    error: BaseException, status: int, printed: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(download_weights_command, "download_weights_command", fail)
    done = run("download-weights")
    assert (done.status, done.out, done.err) == (status, "", f"{printed}\n")


@pytest.mark.parametrize("command", ["search", "predict"])
def test_only_a_command_that_continues_says_so_after_an_interrupt(
    command: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise KeyboardInterrupt

    module = import_module(f"e5.cli.{command}_command")
    monkeypatch.setattr(module, f"{command}_command", fail)
    done = run(command)
    assert (done.status, done.out, done.err) == (130, "", "interrupted\n")


@contextmanager
def running(e5: Path, *arguments: str, folder: Path, **environment: str) -> Iterator[httpx2.Client]:
    """A server of the command `e5`; yields a client once it is ready."""
    port = str(free_port())
    environ = {key: value for key, value in os.environ.items() if not key.startswith("E5_")}
    environ |= {"PORT": port, "PYTHONPATH": sysconfig.get_path("purelib"), **environment}
    with (
        (folder.parent / "log").open("w+") as log,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        server = subprocess.Popen([e5, *arguments], cwd=folder, env=environ, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_SECONDS
            status = "STARTING"
            while status == "STARTING":
                assert server.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
                with suppress(httpx2.TransportError):
                    status = client.get("/health-check").json()["status"]
            assert status == "READY", Path(log.name).read_text()
            yield client
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()


@pytest.mark.slow
def test_an_installed_wheel_serves_from_any_folder(tmp_path: Path) -> None:
    """In an environment with the wheel alone; its other packages are those that are installed here.

    The folder in which it is called has modules of the same names, which are not imported.
    """
    source, folder, home = tmp_path / "source", tmp_path / "empty", tmp_path / "environment"
    for path in (source, folder):
        path.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "predict.py", "e5"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    for name in ("predict.py", "e5.py", "json.py"):
        (folder / name).write_text("raise ImportError('the wrong one')")
    (folder / "mine").symlink_to(ROOT / "weights" / "e5-mini")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    install = ["--python", str(home / "bin/python"), "install", "--no-deps", str(source)]
    subprocess.run([*pip, *install], check=True, timeout=300)

    command = home / "bin/e5"
    done = subprocess.run([command, "predict"], cwd=folder, capture_output=True, text=True)
    assert done.stderr.endswith('run pip install "e5-mistral-service[serve]"\n')
    with running(command, "serve", folder=folder, E5_WEIGHTS="mine") as server:
        backend = str(server.base_url)
        with running(command, "gateway", "--backend", backend, folder=folder) as gateway:
            asked = {"input": {"query": "snow"}}
            first, second = (c.post("/predictions", json=asked).json() for c in (server, gateway))
    assert first["output"]["model"].startswith("e5-mini@")
    assert second["output"] == first["output"]
