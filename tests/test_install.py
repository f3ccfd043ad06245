"""scripts/install takes torch from where the caller says, and shows that it is alive."""

import functools
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import venv
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import IO, Any

import pytest
from wheels import write_wheel

ROOT = Path(__file__).parent.parent
SUPPORT = ROOT / "tests/support"
PIP_SEES = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_CACHE_DIR": "1"}
# A build backend without a dependency: the project's editable wheel is made by `write_wheel`.
BACKEND = """
import sys
sys.path.insert(0, {support!r})
from wheels import write_wheel
def build_editable(folder, *_):
    return write_wheel(folder, "project", "1.0", {extras}).name
"""
EXTRAS = {"serve": ["torch>=2.11,<2.14", "tiny"], "gateway": ["tiny"], "search": ["tiny"]}


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder, whose listings are what pip wants of an index."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project of which scripts/install installs the extras of `EXTRAS`."""
    folder = tmp_path / "a project"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/install", folder / "scripts")
    (folder / "backend.py").write_text(BACKEND.format(support=str(SUPPORT), extras=EXTRAS))
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    declared = "\n".join(f"{name} = {list(needed)}" for name, needed in EXTRAS.items())
    (folder / "pyproject.toml").write_text(
        f'{system}[project]\nname = "project"\nversion = "1.0"\n'
        f"[project.optional-dependencies]\n{declared}\n"
    )
    (folder / "requirements.txt").write_text("tiny==1.0\ntorch==2.11.0\n")
    for name in ("pyproject.toml", "requirements.txt"):
        os.utime(folder / name, (0, 0))  # bash 3.2 compares whole seconds
    return folder


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[str]:
    """The URL below which the indexes `default` and `cpu` are served.

    The default torch is the one for NVIDIA cards: it needs a package that is not to be had.
    """
    root = tmp_path / "indexes"
    write_wheel(root / "default/torch", "torch", "2.13.0+cu130", ["nvidia"])  # the higher version
    write_wheel(root / "default/tiny", "tiny", "1.0", text="index = 'default'")
    write_wheel(root / "cpu/torch", "torch", "2.13.0", text="#" + " " * 1_500_000)
    write_wheel(root / "cpu/tiny", "tiny", "1.0", text="index = 'cpu'")
    handler = functools.partial(QuietHandler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def install(
    project: Path,
    given: Mapping[str, str] | None = None,
    *,
    extras: str = "serve",
    stderr: int | IO[str] = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run scripts/install without pip's and our own variables of the caller's environment."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "E5_"))}
    return subprocess.run(
        [project / "scripts/install", extras],
        env={**environ, **PIP_SEES, "PYTHON": sys.executable, **(given or {})},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=120,
    )


def replace_python(project: Path, script: str) -> None:
    """Put a shell script into the place of .venv's Python."""
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


@pytest.mark.slow
def test_torch_is_taken_from_the_named_index_and_nothing_else_is(
    project: Path, indexes: str
) -> None:
    venv.create(project / ".venv")
    [site] = (project / ".venv/lib").glob("python*/site-packages")
    (site / "pip").symlink_to(Path(str(distribution("pip").locate_file("pip"))))

    given = {"E5_TORCH_INDEX": f"{indexes}/cpu/", "PIP_INDEX_URL": f"{indexes}/default/"}
    done = install(project, given)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert re.search(r"Downloading .*torch-2\.13\.0.*\(1\.5 MB\)", done.stderr)
    assert "NVIDIA" not in done.stderr
    asked = "import tiny, torch; print(tiny.index)"
    python = project / ".venv/bin/python"
    assert subprocess.check_output([python, "-c", asked], text=True) == "default\n"
    assert (install(project, given).stderr, install(project).stderr) == ("", "")


def test_another_index_replaces_torch_and_nothing_else(project: Path) -> None:
    replace_python(project, '[ "$1" != -m ] || echo "$*" >>asked')
    for build in ("cpu", "cpu", "cu126"):
        given = f"https://index.invalid/{build}"
        assert install(project, {"E5_TORCH_INDEX": given}).returncode == 0
    swaps = [
        f"--force-reinstall --no-deps --index-url https://index.invalid/{build} torch==2.13.0"
        for build in ("cpu", "cu126")
    ]
    asked = (project / "asked").read_text().splitlines()
    assert [line.partition("version-check ")[2].partition(" --progress")[0] for line in asked] == [
        swaps[0],
        "--constraint /dev/stdin -e .[serve]",
        swaps[1],
    ]


@pytest.mark.parametrize("received", ["cpu", "download.pytorch.org/whl/cpu", "-r"])
def test_an_index_that_is_no_url_is_refused(project: Path, received: str) -> None:
    done = install(project, {"E5_TORCH_INDEX": received})
    assert done.returncode == 1
    assert done.stderr.startswith(f"E5_TORCH_INDEX: received '{received}', which is no URL; use ")
    assert not (project / ".venv").exists()


def test_an_extra_without_torch_asks_no_index_for_it(project: Path) -> None:
    replace_python(project, 'echo "$@" >>asked')
    done = install(project, {"E5_TORCH_INDEX": "https://nowhere.invalid/"}, extras="gateway,search")
    assert done.returncode == 0, done.stderr
    [asked] = (project / "asked").read_text().splitlines()
    assert asked.endswith("-e .[gateway,search] --progress-bar off")


def test_a_mac_without_packages_of_torch_is_told_what_runs_there(
    project: Path, tmp_path: Path
) -> None:
    replace_python(project, "exit 9")
    uname = tmp_path / "bin/uname"
    uname.parent.mkdir()
    uname.write_text('#!/bin/sh\n[ "$1" = -sm ] && echo Darwin x86_64 || echo Darwin\n')
    uname.chmod(0o755)
    given = {"PATH": f"{uname.parent}{os.pathsep}{os.environ['PATH']}"}
    done = install(project, given)
    assert done.returncode == 1
    assert re.fullmatch(r"torch and Cog .* Macs with Intel .* run here\.\n", done.stderr)
    assert install(project, given, extras="gateway").returncode == 9  # which is pip's


def test_the_extras_without_torch_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]

    def needs_torch(extra: str) -> bool:
        return any(
            re.match(r"torch\b|mteb\b|sentence-transformers\b", requirement)
            or any(
                needs_torch(other)
                for other in re.findall(r"^e5-mistral-service\[(.*)\]", requirement)
                for other in other.split(",")
            )
            for requirement in extras[extra]
        )

    [named] = re.findall(r"^ +(clients \|.*)\) ;;$", (ROOT / "scripts/install").read_text(), re.M)
    assert named.split(" | ") == sorted(extra for extra in extras if not needs_torch(extra))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a torch of gigabytes")
@pytest.mark.parametrize("is_there", [False, True])
def test_a_long_download_is_announced_with_its_size(project: Path, is_there: bool) -> None:
    replace_python(project, f"case $1 in -c) exit {0 if is_there else 1} ;; esac")
    announced = "torch for NVIDIA cards is a download of 2.7 GB, torch for CPUs one of 0.2 GB: "
    assert (announced in install(project).stderr) == (not is_there)


@pytest.mark.slow  # waits for two seconds
def test_a_file_gets_a_line_now_and_then(project: Path, tmp_path: Path) -> None:
    script, shown = project / "scripts/install", tmp_path / "shown"
    patient = script.read_text()
    assert "\nsilence=30\n" in patient
    script.write_text(patient.replace("silence=30", "silence=2"))
    # pip takes as long as it takes until a sign of life is there.
    replace_python(
        project, f'[ "$1" != -m ] || until grep -q "still inst" {shown}; do sleep 0.1; done'
    )
    with shown.open("w") as file:
        assert install(project, stderr=file).returncode == 0
    assert re.search(r"^\.\.\. still installing after \d+ s$", shown.read_text(), re.MULTILINE)


def test_a_terminal_gets_pip_s_own_progress(project: Path) -> None:
    replace_python(project, '[ "$1" != -m ] || echo "$*"')
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "w") as terminal:
        done = install(project, stderr=terminal)
        shown = screen.read(10_000)
    assert (done.returncode, done.stdout) == (0, "")
    assert b"-e .[serve]\r\n" in shown
    assert b"--progress-bar" not in shown


def test_a_failed_installation_is_not_taken_for_done(project: Path) -> None:
    replace_python(project, "echo failed >&2; exit 3")
    for _ in range(2):
        done = install(project)
        assert done.returncode == 3
        assert "failed" in done.stderr
    given = {"E5_TORCH_INDEX": "https://nowhere.invalid/"}
    assert [install(project, given).returncode for _ in range(2)] == [3, 3]
