"""Tries everything that a machine with a card must do, in one command, and gives a verdict.

    ./scripts/accept                                            the 7B model on this machine's card
    ./scripts/accept --weights random                           random weights in its shapes
    ./scripts/accept --weights weights/e5-mini --device cpu     what can be tried without a card
    ./scripts/accept --quick ...                                the same steps with fewer texts
    E5_ENGINE=transformers ./scripts/accept ...                 the unmodified model, on any card

Each step runs in a process of its own, so that a step that dies stops no other. After each step
the report docs/accept/MACHINE-DATE.json and .md is written. A second run repeats only what has not
passed.
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

from acceptance.candidate import QUICK, RANDOM, ROOT, Candidate, Workload
from acceptance.lines import Line, passes
from acceptance.report import Report
from e5.settings import Settings

# The module and the function of each step. A step imports only its own module.
STEPS = {
    "machine": "machine.machine",
    "weights": "machine.weights",
    "loading": "vectors.loading",
    "tests": "machine.tests",
    "fidelity": "vectors.fidelity",
    "unmodified model": "vectors.unmodified",
    "odd texts": "vectors.odd_texts",
    "memory": "vectors.memory",
    "truth": "mteb_scores.scores",
    "speed": "speed.speed",
    "server": "serving.server",
    "image": "serving.image",
}
LOG_LINES = 40


def main() -> int:
    """Run the steps that have not passed; return 0 if nothing failed."""
    parser = argparse.ArgumentParser(
        prog="accept", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights",
        default=str(ROOT / Settings.weights),
        help="a folder of a checkpoint; the default one is downloaded if it is missing; random: "
        "14.2 GB in weights/random, made on the device, whose scores are compared with none",
    )
    parser.add_argument("--device", help="cuda, cuda:1 or cpu (default: cuda)")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs/accept",
        help="the folder of the reports (%(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use fewer texts, requests and rounds: shows in half a minute that the steps work",
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)  # for the child process
    options = parser.parse_args()
    candidate = Candidate(
        RANDOM if options.weights == "random" else Path(options.weights).resolve(),
        options.device or "cuda",
        QUICK if options.quick else Workload(),
        Settings.from_env().engine,
    )
    if options.step:
        module, function = STEPS[options.step].split(".")
        lines = getattr(importlib.import_module(f"acceptance.{module}"), function)(candidate)
        options.out.write_text(json.dumps([vars(line) for line in lines]))
        return 0
    report = Report(options.out.resolve(), candidate.facts())
    for step in STEPS:
        if report.passed(step):
            print(f"{step}: has passed before")
            continue
        print(f"{step} ...", flush=True)
        started = time.monotonic()
        lines, log = _run(step, candidate)
        report.add(step, lines, seconds=time.monotonic() - started, log=log)
        for line in lines:
            aim = f"  ({line.aim})" if line.aim else ""
            print(f"  {line.result:8} {line.what}: {line.figure}{aim}", flush=True)
    passed = report.finish()
    print(f"\n{'passed' if passed else 'FAILED'}: the report is {report.path.with_suffix('.md')}")
    return 0 if passed else 1


def _run(step: str, candidate: Candidate) -> tuple[list[Line], str]:
    """Run a step; return its lines and the end of its log. If it died, its one line has failed."""
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "lines.json", Path(folder) / "log"
        command = [sys.executable, "-m", "acceptance", "--step", step, "--out", str(output)]
        command += ["--weights", str(candidate.weights), "--device", candidate.device]
        command += ["--quick"] if candidate.workload == QUICK else []
        with log.open("wb") as file:
            environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
            code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        tail = tail.replace(str(ROOT), ".").replace(str(Path.home()), "~")
        if code != 0:
            last = tail.rpartition("\n")[2]
            return [passes("the step itself", f"ended with {code}: {last}", False)], tail
        return [Line(**line) for line in json.loads(output.read_text())], tail


if __name__ == "__main__":
    sys.exit(main())
