"""A process that answers each line of its standard input with a line of its standard output."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def line_by_line(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Run it; yields a function that sends a question as JSON and returns the answer.

    The process ends when its input does. What it writes to its standard error is shown.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, f"it ended with {process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    try:
        yield ask
    finally:
        stdin.close()
        process.wait()
        stdout.close()
