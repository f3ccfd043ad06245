"""`e5 gateway` refuses what it cannot serve before it loads anything."""

from pathlib import Path

import pytest
from commands import Run
from ports import free_port


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--alias", "ada"], {}, "--alias: received ada; write NAME=MODEL.\n"),
        *(
            (["--cors", origin], {}, f"--cors: received {origin}; write what a browser sends, ")
            for origin in (
                "https://a.example/",
                "https://a.example/x",
                "a.example",
                "https://A.example",
                "https://a.example:443",
                "http://a.example:80",
                "https://*.example",
                "LICENSE",
            )
        ),
        (["--keys", "nowhere"], {}, "--keys: received nowhere, which cannot be read"),
        (["--keys", "blank"], {}, "--keys: received blank, which holds no key; write one key"),
        (["--keys", "keys"], {}, "--keys: received keys, whose line 3 has a character that no "),
        (["--keys", "latin"], {}, "--keys: received latin, of which line 2 is not UTF-8 text; "),
        ([], {"E5_DRAIN_SECONDS": "15s"}, "E5_DRAIN_SECONDS: received '15s'; use seconds from 0 "),
        (
            ["--backend", "http://127.0.0.1:9"],
            {"E5_DRAIN_SECONDS": "-1"},
            "E5_DRAIN_SECONDS: received -1.0; use seconds from 0 to 3600.\n",
        ),
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
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfone \r\n\r\nt\xe2\x80\x8bwo")
    (tmp_path / "latin").write_bytes(b"one\nschl\xfcssel")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run("gateway", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines(keepends=True)[-1].startswith(sentence)
