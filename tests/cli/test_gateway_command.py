"""`e5 gateway` refuses what it cannot serve before it loads anything."""

from pathlib import Path

import pytest
from commands import Run
from fake_cog import fake_cog, succeeded
from gateway_server import EVERYWHERE, serve_gateway
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
        (["--engines", "0"], {}, '--engines: received "0"; use all, or a whole number from 1 to '),
        (
            ["--fronts", "many"],
            {},
            '--fronts: received "many"; use a whole number from 1 to 256.\n',
        ),
        (
            ["--engines", "all"],
            {"E5_DEVICE": "cpu"},
            "--engines: received all, and no card can be used here; use a number such as 2, ",
        ),
        (
            ["--engines", "2"],
            {"E5_DEVICE": "cuda:1"},
            "E5_DEVICE: received 'cuda:1', which one engine alone can use; use cuda, and choose ",
        ),
        *(
            (
                [option, "2", "--backend", "http://127.0.0.1:1"],
                {},
                f"{option}: received a value together with --backend, which names who computes; ",
            )
            for option in ("--engines", "--fronts")
        ),
        (["--engines", "2", "--alias", "ada"], {}, "--alias: received ada; write NAME=MODEL.\n"),
        (["--fronts", "2", "--cors", "a.b"], {}, "--cors: received a.b; write what a browser "),
        (["--engines", "2", "--keys", "blank"], {}, "--keys: received blank, which holds no key; "),
        (["--engines", "2"], {"E5_WEIGHTS": "nowhere"}, "nowhere: there is no such weights folder"),
        (["--engines", "2"], {"E5_TREADS": "1"}, "E5_TREADS: received a setting that does not "),
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


@pytest.mark.slow
@pytest.mark.skipif(EVERYWHERE != [], reason="several processes are never before a service")
def test_before_a_service_it_needs_no_package_of_another_extra() -> None:
    """Those of this extra need some of the others' packages themselves; these they do not."""
    missing = ["torch", "transformers", "tokenizers", "safetensors", "cog", "pyarrow", "lancedb"]
    patch = f"import sys; sys.modules.update(dict.fromkeys({missing}))"
    with (
        fake_cog(lambda _, inputs: succeeded(inputs)) as cog,
        serve_gateway("--backend", cog.url, patch=patch) as gateway,
    ):
        asked = {"model": "toy", "input": ["3", "5"]}
        data = gateway.client.post("/v1/embeddings", json=asked).json()["data"]
        assert [round(row["embedding"][0] / row["embedding"][1]) for row in data] == [3, 5]
