"""From a clone to a verdict: everything that a machine with a card has to show, in one command.

    ./scripts/accept                                            the 7B model on this machine's card
    ./scripts/accept --weights weights/e5-mini --device cpu     what can be shown without one
    ./scripts/accept --quick ...                                the same steps with fewer texts

Runs each step in a process of its own, so that one that dies fails alone, and writes
docs/accept/MACHINE-DATE.json and .md after each. Run again, it repeats only what has not passed.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from acceptance.lines import Line, passes
from acceptance.report import Report
from acceptance.subject import QUICK, ROOT, Subject, Workload

# A module of this package, and its function; each step imports its own alone.
STEPS = {
    "machine": "machine.machine",
    "weights": "machine.weights",
    "loading": "vectors.loading",
    "tests": "machine.tests",
    "fidelity": "vectors.fidelity",
    "odd texts": "vectors.odd_texts",
    "memory": "vectors.memory",
    "truth": "truth.truth",
    "speed": "speed.speed",
    "server": "serving.server",
    "image": "serving.image",
}
LOG_LINES = 40


def main() -> int:
    """Run what has not passed; 0 when nothing failed."""
    parser = argparse.ArgumentParser(
        prog="accept", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=ROOT / "weights/e5-mistral-7b-instruct",
        help="a checkpoint's folder; the default is downloaded where it is missing",
    )
    parser.add_argument("--device", help="cuda, cuda:1 or cpu (default: a card, and no CPU)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/accept", help="where reports lie (%(default)s)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer texts, requests and rounds: shows that the steps work, in half a minute",
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)  # in the child
    options = parser.parse_args()
    subject = Subject(
        options.weights.resolve(), options.device or "cuda", QUICK if options.quick else Workload()
    )
    if options.step:
        module, function = STEPS[options.step].split(".")
        lines = getattr(importlib.import_module(f"acceptance.{module}"), function)(subject)
        options.out.write_text(json.dumps([vars(line) for line in lines]))
        return 0
    report = Report(options.out.resolve(), subject.facts())
    for step in STEPS:
        if report.passed(step):
            print(f"{step}: has passed before")
            continue
        print(f"{step} ...", flush=True)
        started = time.monotonic()
        lines, log = _run(step, subject)
        report.add(step, lines, seconds=time.monotonic() - started, log=log)
        for line in lines:
            aim = f"  ({line.aim})" if line.aim else ""
            print(f"  {line.result:8} {line.what}: {line.figure}{aim}", flush=True)
    passed = report.finish()
    print(f"\n{'passed' if passed else 'FAILED'}: {report.path.with_suffix('.md')} says it all")
    return 0 if passed else 1


def _run(step: str, subject: Subject) -> tuple[list[Line], str]:
    """A step's lines and the end of its log; one that fails if it died."""
    with tempfile.TemporaryDirectory() as folder:
        told, log = Path(folder) / "lines.json", Path(folder) / "log"
        command = [sys.executable, "-m", "acceptance", "--step", step, "--out", str(told)]
        command += ["--weights", str(subject.weights), "--device", subject.device]
        command += ["--quick"] if subject.workload == QUICK else []
        with log.open("wb") as file:
            environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
            code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        tail = tail.replace(str(ROOT), ".").replace(str(Path.home()), "~")
        if code != 0:
            last = tail.rpartition("\n")[2]
            return [passes("the step itself", f"ended with {code}: {last}", False)], tail
        return [Line(**line) for line in json.loads(told.read_text())], tail


if __name__ == "__main__":
    sys.exit(main())
