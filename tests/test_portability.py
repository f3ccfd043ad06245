"""Scripts run by the bash and the tools of macOS as well; what cannot says that it is Linux's."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASH = sorted(
    path
    for folder in ("scripts", ".ci")
    for path in (ROOT / folder).iterdir()
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash\n")
)
# What bash 3.2, which macOS has, does not know; and options and programs of GNU alone.
NEWER_BASH = {
    "associative arrays, references": r"\b(declare|local|typeset)\s+-\w*[An]",
    "arrays from lines": r"\b(mapfile|readarray)\b",
    "upper and lower case": r"\$\{\w+(\[[@*]\])?(,|\^)",
    "quoting": r"\$\{\w+@\w\}",
    "an index from the end": r"\[-\d+\]\}",
    "one job of several": r"\bwait\s+-\w",
    "both streams into a pipe or a file's end": r"\|&|&>>",
    "a case that goes on": r";;?&",
    "variables": r"\b(EPOCHSECONDS|EPOCHREALTIME|BASHPID|BASH_ARGV0|SRANDOM)\b",
    "coprocesses": r"\bcoproc\b",
    "fractions of seconds": r"\bread\b.* -t *\d*\.",
    "an array that may be empty, under set -u": r"\w+=\(\s*\)",
}
GNU_ALONE = {
    "readlink -f without another way": r"readlink -f(?!.*\|\| echo)",
    "sed": r"\bsed\s+-(i|r|-)",
    "find": r"\bfind\b.* -(printf|regextype|executable)\b",
    "options": r"\b(stat -c|date -d|cp --|sort -V|head -n -|xargs -(r|d)|grep -P)",
    "programs": r"(?<![-\w/.])(realpath|timeout|nproc|tac|setsid|flock|md5sum|sha256sum)\s",
    "files": r"/proc/|/sys/|/dev/shm",
}


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    assert len(BASH) > 10
    done = subprocess.run([shellcheck, *BASH], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", BASH, ids=lambda path: path.name)
def test_a_script_needs_no_newer_bash_and_nothing_of_gnu_alone(script: Path) -> None:
    rules = NEWER_BASH | ({} if script.parent.name == ".ci" else GNU_ALONE)
    for number, line in enumerate(script.read_text().splitlines(), 1):
        code = re.sub(r"(^|\s)#.*", "", line)
        broken = [name for name, pattern in rules.items() if re.search(pattern, code)]
        assert broken == [], f"{script.name}:{number}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        *("declare -A a", "local -n b=$1", "mapfile -t x <f", "echo ${x,,}", 'echo "${x^}"'),
        *("echo ${x@Q}", 'echo "${x[-1]}"', "wait -n", "a |& b", "a &>>b", "case a in b) ;;& esac"),
        *("echo $EPOCHSECONDS", "coproc a", "read -t 0.5 x", "tests=()"),
        *('cd "$(readlink -f "$0")"', "sed -i s/a/b/ c", "find . -printf x", "stat -c %s f"),
        *("realpath x", "timeout 5 sleep 9", "cat /proc/cpuinfo"),
    ],
)
def test_the_rules_find_what_they_are_for(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in (NEWER_BASH | GNU_ALONE).values())


@pytest.fixture
def old_tools(tmp_path: Path) -> str:
    """A PATH on which readlink is that of macOS before 12.3."""
    readlink = tmp_path / "bin/readlink"
    readlink.parent.mkdir()
    readlink.write_text("#!/bin/sh\necho 'readlink: illegal option -- f' >&2\nexit 1\n")
    readlink.chmod(0o755)
    return f"{readlink.parent}{os.pathsep}{os.environ['PATH']}"


def test_a_command_starts_with_old_tools(old_tools: str, tmp_path: Path) -> None:
    project = tmp_path / "a project"
    (project / ".venv/bin").mkdir(parents=True)
    shutil.copytree(ROOT / "e5/cli", project / "e5/cli")
    (project / "scripts").mkdir()
    for name in ("serve", "launch"):
        shutil.copy(ROOT / "scripts" / name, project / "scripts")
    python = 'case $2 in */extras.py) echo serve ;; *) echo "$* $E5_WEIGHTS" ;; esac'
    for name, body in {"scripts/install": "", ".venv/bin/python": python}.items():
        (project / name).write_text(f"#!/bin/sh\n{body}\n")
        (project / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "a project/scripts/serve", "one"],
        cwd=tmp_path,
        env={**os.environ, "PATH": old_tools, "E5_WEIGHTS": ""},
        capture_output=True,
        text=True,
    )
    weights = project / "weights/e5-mistral-7b-instruct"
    assert (done.stdout, done.stderr) == (f"-m e5 serve one {weights}\n", "")


@pytest.mark.parametrize("command", ["accept", "benchmark"])
def test_what_runs_on_linux_alone_says_so_before_it_installs(command: str, tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / command, "--help"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"scripts/{command} .*: it runs on Linux alone\.\n", done.stderr)


@pytest.mark.parametrize("file", ["scripts/demo", "e5/cli/extras.py"])
def test_what_runs_before_the_installation_reads_as_python_3_9(file: str) -> None:
    """It is what macOS has; scripts/install then says that a newer one is needed."""
    ast.parse((ROOT / file).read_text(), feature_version=(3, 9))
