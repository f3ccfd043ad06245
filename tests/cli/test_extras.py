"""The extras that a command line needs, and the sentence where they are missing."""

import doctest
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import e5.cli.extras
from e5.cli.extras import MODULES_BY_EXTRA, SUBCOMMANDS, missing_extras, needed_extras

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

BY_COMMAND_LINE = {
    "serve": "serve",
    "gateway": "gateway,serve",
    "gateway --backend http://127.0.0.1:5000": "gateway",
    "gateway --backend=replicate:you/e5 --index i": "gateway,search",
    "gateway --index=i --alias a=b": "gateway,serve,search",
    "predict -i query=a": "serve",
    "embed-corpus in out": "corpus",
    "embed-corpus in out --runner loop": "corpus",
    "embed-corpus in out --runner ray": "cluster",
    "embed-corpus in out --runner=ray --workers 2": "cluster",
    "embed-corpus ray out": "corpus",
    "build-index out index": "search",
    "search index snow": "serve,search",
    "search index snow --url=http://127.0.0.1:5000": "search",
    "audit vectors.parquet --vector-column v": "serve,search",
    "audit vectors.parquet --reference http://127.0.0.1:5000": "search",
    "audit --url=http://127.0.0.1:8080 --dialect openai": "serve",
    "download-weights": "serve",
}


@pytest.mark.parametrize("line", BY_COMMAND_LINE)
def test_a_command_line_needs_these_extras(line: str) -> None:
    command, *arguments = line.split()
    assert needed_extras(command, arguments) == BY_COMMAND_LINE[line].split(",")
    assert command in SUBCOMMANDS


def test_the_file_prints_the_extras_before_anything_is_installed() -> None:
    """`-S`: without the packages that are installed; `-I`: without this one."""
    file = str(ROOT / "e5/cli/extras.py")
    command = [sys.executable, "-S", "-I", file, "gateway", "--index", "i"]
    assert subprocess.check_output(command, text=True) == "gateway,serve,search\n"


def packages(extra: str) -> set[str]:
    """The names that pyproject.toml gives an extra and those that it includes."""
    found = set()
    for requirement in EXTRAS[extra]:
        name = requirement.partition("==")[0].partition(">")[0]
        if name.startswith("e5-mistral-service["):
            for included in name.partition("[")[2].rstrip("]").split(","):
                found |= packages(included)
        else:
            found.add(name.partition("[")[0].replace("-", "_"))
    return found


@pytest.mark.parametrize("extra", MODULES_BY_EXTRA)
def test_the_modules_of_an_extra_are_its_packages_and_are_importable(extra: str) -> None:
    assert set(MODULES_BY_EXTRA[extra]) == packages(extra)
    assert [name for name in MODULES_BY_EXTRA[extra] if find_spec(name) is None] == []


def test_only_the_extras_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_extras("gateway", []) is None
    monkeypatch.setitem(MODULES_BY_EXTRA, "serve", ["torch", "no_such_module"])
    assert missing_extras("gateway", ["--backend", "http://127.0.0.1:5000"]) is None
    assert missing_extras("gateway", []) == (
        'e5 gateway needs more packages: run pip install "e5-mistral-service[serve]"'
    )


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(e5.cli.extras, raise_on_error=True)
    assert result.attempted > 0
