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
    """

    code: int
    summary: str
    counts: dict[str, int]
    failures: list[str]


def run_gpu_tests(folder: Path = ROOT / "tests") -> GpuTests:
    """Run the tests below a folder that are marked `gpu`, in a process of their own.

    What pytest prints goes to the standard error.
    """
    files = [file for file in sorted(folder.rglob("test_*.py")) if _has_gpu_tests(file)]
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["-W", "default", *map(str, files)]  # the versions of this machine may warn
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(
                line, end="", file=sys.stderr, flush=True
            )  # whoever ends this sees how far it was
            lines.append(line)
    output = "".join(lines)
    summary = output.strip().rpartition("\n")[2].strip("= ")
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", summary)}
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return GpuTests(process.returncode, summary, counts, failures)


def _has_gpu_tests(file: Path) -> bool:
    return "pytest.mark.gpu" in file.read_text()
