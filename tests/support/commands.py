"""The commands of e5, run in this process as a person runs them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from e5.cli import main


@dataclass(frozen=True)
class Done:
    """What a command did: its exit status, and what it printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs `e5` with its arguments, of any type, and gives what was done."""

    def run(*arguments: object) -> Done:
        status = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Done(status, printed.out, printed.err)

    return run


def embed_folder(run: Run, *arguments: object) -> str:
    """Run `e5 embed-corpus`, which must succeed; returns the line with what was computed."""
    done = run("embed-corpus", *arguments)
    assert done.status == 0, done.err
    return done.out.splitlines()[1]
