"""`e5 gateway` refuses what it cannot serve before it loads anything."""

from pathlib import Path

import pytest
from commands import Run
from ports import free_port


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--alias", "ada"], {}, "--alias: received ada; write NAME=MODEL.\n"),
        (["--keys", "nowhere"], {}, "--keys: received nowhere, which cannot be read"),
        (["--keys", "blank"], {}, "--keys: received blank, which holds no key; write one key"),
        ([], {"E5_WEIGHTS": "nowhere"}, "nowhere: there is no such weights folder; "),
    ],
)
def test_one_sentence_says_why_it_does_not_start(
    arguments: list[str],
    environment: dict[str, str],
    sentence: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank").write_text("\n \n")
    monkeypatch.setenv("PORT", str(free_port()))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run("gateway", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines(keepends=True)[-1].startswith(sentence)
