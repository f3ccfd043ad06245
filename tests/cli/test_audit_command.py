"""`e5 audit` judges files and endpoints, and prints what a person or a program needs."""

import doctest
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from corpus_tools import embed, texts, write_corpus, write_rows
from fake_http import Asked, Reply, serve_http
from gateway_tools import LocalGateway
from server import ROOT

import e5.cli.audit_command
from e5.audit import DIALECTS
from e5.cli import main
from e5.corpora import Index
from e5.embedder import Embedder
from e5.gateway import InProcessBackend
from e5.serving import Service
from e5.vectors import Vectors

KEY = "sk-a-key-of-the-test"
TEXTS = [f"{text}\nOn 3 Lines\n{i}" for i, text in enumerate(texts(12))]


def write(path: Path, vectors: Vectors, column: str = "embedding") -> Path:
    """A file of `TEXTS` with vectors, the first of them queries."""
    rows = [
        {"key": f"k{i}", "body": text, column: json.dumps(vector.tolist())}
        for i, (text, vector) in enumerate(zip(TEXTS, vectors, strict=True))
    ]
    write_rows(path, rows)
    return path


@pytest.mark.slow
class TestFiles:
    def test_right_vectors_are_right(self, embedder: Embedder, tmp_path: Path, run: Run) -> None:
        file = write(tmp_path / "a.csv", embedder.encode_document(TEXTS), "v")
        columns = ("--text-column", "body", "--vector-column", "v", "--id-column", "key")
        done = run("audit", file, *columns)
        assert done.status == 0
        head, row, blank, *rest = done.out.splitlines()
        assert head.split() == ["verdict", "rows", "cosine"]
        assert row.split() == ["right", "100", "%", "1.0000"]
        assert blank == ""
        assert rest[0] == "12 rows of 64 dimensions"
        assert rest[-1] == "Nothing need be done."
        assert done.err == ""

    def test_a_mistake_is_named_with_its_remedy(
        self, embedder: Embedder, tmp_path: Path, run: Run
    ) -> None:
        vectors = embedder.encode_document([text.replace("\n", " ") for text in TEXTS])
        vectors[:2] = embedder.encode_document(TEXTS[:2])
        file = write(tmp_path / "a.jsonl", vectors)
        done = run("audit", file, "--text-column", "body", "--role", "document")
        assert done.status == 1
        lines = done.out.splitlines()
        assert lines[1].split() == ["newlines_replaced", "83.3", "%", "1.0000"]
        assert lines[2].split() == ["right", "16.7", "%", "1.0000"]
        assert "cosine with the right vectors: 0." in done.out
        assert "Keep line breaks" in lines[-1]

    def test_json_is_one_object(self, embedder: Embedder, tmp_path: Path, run: Run) -> None:
        vectors = embedder.encode_document([text.lower() for text in TEXTS])
        vectors[3] = np.nan
        file = write(tmp_path / "a.jsonl", vectors)
        with file.open("a") as more:
            more.write('{"body": null, "embedding": [1]}\n')
        done = run("audit", file, "--text-column", "body", "--role", "document", "--json")
        assert done.status == 1
        found: dict[str, Any] = json.loads(done.out, parse_constant=lambda name: pytest.fail(name))
        assert found["verdict"] == "lowercased"
        assert found["share"] == pytest.approx(11 / 12)
        assert found["cosine"] == pytest.approx(1, abs=1e-5)
        assert found["cosine_right"] < 0.9999
        assert found["margin"] > 0
        assert [row["id"] for row in found["rows"]] == [f"a.jsonl:{i}" for i in range(12)]
        assert {row["verdict"] for row in found["rows"]} >= {"lowercased"}
        assert list(found) == [
            *("verdict", "cosine", "cosine_right", "margin", "share", "rows", "advice")
        ]
        assert found["advice"]
        assert done.err == "left out: 1 (a.jsonl:12: blank text)\n"

    @pytest.mark.long
    def test_queries_have_a_task(self, embedder: Embedder, tmp_path: Path, run: Run) -> None:
        vectors = embedder.encode_query(TEXTS, task="SciFact")
        file = write(tmp_path / "a.jsonl", vectors)
        options = ("--text-column", "body", "--role", "query")
        assert run("audit", file, *options, "--task", "SciFact").status == 0
        done = run("audit", file, *options)
        assert done.status == 1
        assert "other_instruction" in done.out

    @pytest.mark.long
    def test_a_sample_is_of_so_many_rows(
        self, embedder: Embedder, tmp_path: Path, run: Run
    ) -> None:
        file = write(tmp_path / "a.jsonl", embedder.encode_document(TEXTS))
        done = run("audit", file, "--text-column", "body", "--sample", 5)
        assert "5 rows of 64 dimensions" in done.out

    @pytest.mark.long
    def test_own_folders_need_no_options(
        self, embedder: Embedder, tmp_path: Path, run: Run
    ) -> None:
        corpus = write_corpus(tmp_path / "in" / "a.jsonl", TEXTS)
        shards = embed(corpus, tmp_path / "out", embedder)
        Index.build(shards, str(tmp_path / "index"))
        for location in (tmp_path / "out", tmp_path / "index"):
            done = run("audit", location)
            assert done.status == 0, done.out
            assert f"{location} was made by {embedder.name}" in done.out


@pytest.mark.slow
class TestEndpoints:
    @pytest.fixture
    def door(self, embedder: Embedder) -> Any:
        """A gateway that wants a key, behind a real address."""
        backend = InProcessBackend(embedder, Service.of(embedder, max_queue_tokens=1_000_000))
        local = LocalGateway(backend, model=embedder.name, keys=[KEY])

        def answer(request: Asked) -> Reply:
            headers = {name: text for name, text in request.headers.items() if "ength" not in name}
            path, content = request.path, request.content
            response = local.send(request.method, path, content=content, headers=headers)
            return response.status_code, response.content

        with serve_http(answer) as url:
            yield url

    def test_our_own_is_right_and_its_key_is_nowhere(
        self,
        door: str,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("THE_KEY", KEY)
        options = ("--dialect", "nvidia", "--model", "small", "--key-env", "THE_KEY")
        with caplog.at_level(logging.DEBUG):
            done = run("audit", "--url", door, *options)
        assert done.status == 0, done.err
        assert "28 rows of 64 dimensions" in done.out
        shown = done.out + done.err + caplog.text
        assert KEY not in shown
        assert "how much protein" not in shown

    def test_a_wrong_key_names_its_option(
        self, door: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("THE_KEY", "another")
        done = run("audit", "--url", door, "--dialect", "openai", "--key-env", "THE_KEY")
        assert done.status == 1
        assert done.err.startswith("--key-env: received HTTP 401: ")

    def test_a_route_that_is_not_there_names_the_url(self, run: Run) -> None:
        with serve_http(lambda _: (404, {"error": "no such route"})) as url:
            done = run("audit", "--url", url, "--dialect", "tei")
        assert done.status == 1
        assert done.err.startswith(f"--url: received {url}/embed, which answers HTTP 404: no such")

    def test_an_unsteady_endpoint_is_wrong(self, run: Run) -> None:
        """Its vectors are far from those of the checkpoint, and depend on the batch."""

        def answer(request: Asked) -> Reply:
            count = len(request.body["inputs"])
            numbers = np.random.default_rng(count).standard_normal((count, 64))
            return 200, numbers.tolist()

        with serve_http(answer) as url:
            options = ("--dialect", "tei", "--role", "document", "--sample", 2, "--json")
            done = run("audit", "--url", url, *options)
        assert done.status == 1
        assert json.loads(done.out)["verdict"]
        assert done.err.startswith("4 of 4 vectors differ from those of the same texts alone: ")


class TestMistakesOfTheCaller:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ((), "name a FILE_OR_FOLDER, or an endpoint by --url"),
            (("a", "--url", "http://a"), "name a FILE_OR_FOLDER, or an endpoint by --url"),
            (("--url", "http://a"), "--url needs --dialect"),
            (("--url", "http://a", "--dialect", "grpc"), "invalid choice: 'grpc'"),
            (("a", "--model", "e5"), "--model is for --url"),
            (("a", "--key-env", "KEY"), "--key-env is for --url"),
            (("a", "--query-name", "q"), "--query-name is for --url"),
            (
                ("--url", "http://a", "--dialect", "tei", "--text-column", "text"),
                "--text-column is for files",
            ),
        ],
    )
    def test_options_that_do_not_go_together(
        self, arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["audit", *arguments])
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("missing",), "FILE_OR_FOLDER: received "),
            (("a.jsonl", "--vector-column", "v"), "--vector-column: received 'v', which a.jsonl"),
            (("a.jsonl", "--text-column", "t"), "--text-column: received 't', which a.jsonl does"),
            (("a.jsonl", "--id-column", "i"), "--id-column: received 'i', which a.jsonl does"),
            (("a.jsonl", "--sample", "0"), "--sample: received 0; use 1 or more"),
            (("a.jsonl", "--encoding", "no"), "--encoding: received 'no'"),
            (("none.jsonl",), "--vector-column: received 1 row without text or vector; of the"),
            (("a.jsonl", "--vector-column", "text"), "--vector-column: received 1 row without"),
            (
                ("--url", "http://a", "--dialect", "tei", "--key-env", "NOT_SET"),
                "--key-env: received NOT_SET, which is not set; set it to the key",
            ),
            (("--url", "http://a", "--dialect", "google"), "--model: received nothing; name it"),
            (("--url", "http://a?key=1", "--dialect", "tei"), "--url: received a URL with a key"),
            (("--url", "a", "--dialect", "tei"), '--url: received "a/embed"; use a URL such as'),
        ],
    )
    def test_a_wrong_value_is_named_by_its_option(
        self,
        arguments: tuple[str, ...],
        sentence: str,
        tmp_path: Path,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_rows(Path("a.jsonl"), [{"text": "a", "embedding": [1.0, 2.0]}])
        write_rows(Path("none.jsonl"), [{"text": "a", "embedding": None}])
        done = run("audit", *arguments)
        assert done.status == 1
        assert done.err.startswith(sentence)
        assert done.out == ""


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(e5.cli.audit_command, raise_on_error=True)
    assert result.attempted


def test_the_docs_name_every_option_and_every_dialect() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    options = {f"--{name.replace('_', '-')}" for name in e5.cli.audit_command._FILE_OPTIONS}
    options |= {f"--{name.replace('_', '-')}" for name in e5.cli.audit_command._URL_OPTIONS}
    assert not [option for option in options if f"`{option}" not in page]
    assert not [name for name in DIALECTS if f"| `{name}` |" not in page]
