"""Runs the tests that are marked `gpu`."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class GpuTests:
    """How they ended.

    Attributes:
        code: pytest's exit status.
        summary: its last line.
        counts: the number of tests by outcome, as `passed`.
        failures: the names of those that failed.
        output: all that pytest printed.
    """

    code: int
    summary: str
    counts: dict[str, int]
    failures: list[str]
    output: str


def run_gpu_tests(folder: Path = ROOT / "tests") -> GpuTests:
    """Run the tests below a folder that are marked `gpu`, in a process of their own."""
    files = [file for file in sorted(folder.rglob("test_*.py")) if _has_gpu_tests(file)]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-W", "default", *map(str, files)],  # the versions of this machine may warn
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    summary = done.stdout.strip().rpartition("\n")[2].strip("= ")
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", summary)}
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return GpuTests(done.returncode, summary, counts, failures, done.stdout + done.stderr)


def _has_gpu_tests(file: Path) -> bool:
    return "pytest.mark.gpu" in file.read_text()
