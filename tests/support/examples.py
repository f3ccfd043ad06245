"""Runs the Python examples of a page as they stand there, in one process.

Most of an example's time is the import of its client, and they import much that is the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server import ROOT

RUN = """
import contextlib, io, json, sys, traceback

codes, answers = json.load(sys.stdin), []
for code in codes:
    printed, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "example", "exec"), {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    answers.append({"printed": printed.getvalue(), "error": error})
with open(sys.argv[1], "w") as file:
    json.dump(answers, file)
"""


@dataclass(frozen=True)
class Ran:
    """An example that was run.

    Attributes:
        printed: what it wrote to its standard output.
        error: the traceback of what stopped it; empty if nothing did.
    """

    printed: str
    error: str


def run_examples(codes: Sequence[str]) -> list[Ran]:
    """Run each in a namespace of its own, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.json"
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(answers)],
            cwd=ROOT,
            env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"},
            input=json.dumps(codes),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [Ran(**answer) for answer in json.loads(answers.read_text())]
