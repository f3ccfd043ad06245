"""The report: a JSON file that grows step by step, and a page that is made from it.

An unfinished report of the same card, weights and commit is continued.
"""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acceptance.lines import FAILED, NOT_RUN, PASSED, Line

INTRODUCTION = """\
The results of `./scripts/accept` on this machine. Every line was measured or tried there; a line
without a bound is a figure.
"""
SEND = """\
Please open an issue with this page and the JSON file beside it: both hold figures, versions and the
last lines of failed steps, but none of your texts, keys or paths. A failed line stops nothing else.
After a change or an interruption, run the same command again: it does not repeat what has passed.
To start anew, delete the JSON file.
"""


class Report:
    """The lines of all steps so far; they are written after each step."""

    def __init__(self, folder: Path, facts: Mapping[str, str]) -> None:
        """Continue the report of these facts if it is of today or unfinished, or start a new one.

        Args:
            folder: the folder of all reports.
            facts: machine, weights, commit and the like, which a report is about.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", facts["machine"].lower()).strip("-")
        self.path = folder / f"{name}-{time.strftime('%Y-%m-%d')}.json"
        self.data: dict[str, Any] = {"facts": dict(facts), "steps": {}}
        for path in sorted(folder.glob(f"{name}-????-??-??.json"), reverse=True):
            found = json.loads(path.read_text())
            if found["facts"] == self.data["facts"] and (
                path == self.path or not found.get("finished")
            ):
                self.path, self.data = path, found
                break
        self.data["finished"] = False

    def passed(self, step: str) -> bool:
        """Whether a step was run and no line failed."""
        return step in self.data["steps"] and not self.failures(step)

    def failures(self, step: str) -> list[Line]:
        """The lines of a step that failed."""
        return [line for line in self.lines(step) if line.result == FAILED]

    def lines(self, step: str) -> list[Line]:
        """The lines of a step that was run."""
        return [Line(**line) for line in self.data["steps"][step]["lines"]]

    def add(self, step: str, lines: Sequence[Line], *, seconds: float, log: str) -> None:
        """Add the lines of a step, and the end of its log if it failed."""
        self.data["steps"][step] = {
            "lines": [asdict(line) for line in lines],
            "seconds": round(seconds, 1),
        }
        if self.failures(step):
            self.data["steps"][step]["log"] = log
        self._write()

    def finish(self) -> bool:
        """Mark the report as finished, and return whether no line failed."""
        self.data["finished"] = True
        self._write()
        return not any(self.failures(step) for step in self.data["steps"])

    def _write(self) -> None:
        for path, text in (
            (self.path, json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"),
            (self.path.with_suffix(".md"), self.page()),
        ):
            new = path.with_name(f".{path.name}")
            new.write_text(text)
            os.replace(new, path)  # so that there is never half a report

    def page(self) -> str:
        """The report as Markdown."""
        steps = self.data["steps"]
        results = [line.result for step in steps for line in self.lines(step)]
        counted = f"{results.count(PASSED)} lines passed, {results.count(FAILED)} failed"
        if NOT_RUN in results:
            counted += f", {results.count(NOT_RUN)} could not be run here"
        verdict = "failed" if FAILED in results else "passed"
        if not self.data["finished"]:
            verdict = f"unfinished; so far {verdict}"
        machine = self.data["facts"]["machine"]
        parts = [
            f"# Acceptance: {machine}, {self.path.stem[-10:]}\n",
            f"**Verdict: {verdict}.** {counted}.\n",
            INTRODUCTION,
            _table(["", ""], list(self.data["facts"].items())),
        ]
        for step, entry in steps.items():
            rows = [(line.result, line.what, line.figure, line.aim) for line in self.lines(step)]
            parts.append(f"## {step.capitalize()} ({entry['seconds']:g} s)\n")
            parts.append(_table(["", "what", "found", "to pass"], rows))
            if "log" in entry:
                parts.append(f"The end of its log:\n\n```text\n{entry['log']}\n```\n")
        return "\n".join([*parts, "## What to send us\n", SEND])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in cells) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
