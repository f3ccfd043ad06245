"""docs/audit.md names every verdict and says what to do about it, and its sessions are real."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Run, runner
from fake_http import Asked, Reply, serve_http
from gateway_tools import LocalGateway
from mistakes import texts_to_audit
from server import ROOT
from wrong_vectors import WEIGHTS, by_sentence_transformers

from e5.audit.advice import ADVICE
from e5.audit.hypotheses import HYPOTHESES
from e5.embedder import Embedder
from e5.gateway import InProcessBackend
from e5.serving import Service

PAGE = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+\.\d+")
ENGINE, GATEWAY = "http://127.0.0.1:8001", "http://127.0.0.1:8080"


def test_the_docs_name_every_verdict() -> None:
    names = {hypothesis.name for hypothesis in HYPOTHESES} | set(ADVICE)
    assert not [name for name in names if not re.search(rf"`{name}( N| NAME)?`", PAGE)]


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the page's sessions, and what it prints."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


SESSIONS = [
    pytest.param(
        command,
        printed,
        marks=pytest.mark.long if "--url" in command else pytest.mark.slow,
        id=command,
    )
    for command, printed in commands()
    if "scripts/audit" in command
]


@contextmanager
def addresses(embedder: Embedder) -> Iterator[dict[str, str]]:
    """sentence-transformers behind OpenAI's route, and the gateway, by their URLs on the page."""
    make = by_sentence_transformers("lasttoken", prompts=False, max_seq_length=512)
    backend = InProcessBackend(embedder, Service.of(embedder, max_queue_tokens=1_000_000))
    local = LocalGateway(backend, model=embedder.name)

    def engine(request: Asked) -> Reply:
        texts = request.body["input"]
        vectors = make(texts, ["document"] * len(texts)).tolist()
        return 200, {"data": [{"embedding": vector} for vector in vectors]}

    def gateway(request: Asked) -> Reply:
        response = local.send(request.method, request.path, content=request.content)
        return response.status_code, response.content

    with serve_http(engine) as engine_url, serve_http(gateway) as gateway_url:
        yield {ENGINE: engine_url, GATEWAY: gateway_url}


@pytest.mark.parametrize(("command", "expected"), SESSIONS)
def test_the_sessions_are_real(
    command: str,
    expected: str,
    mini_embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("E5_WEIGHTS", str(WEIGHTS))
    run: Run = runner(capsys)
    texts = [text for text in texts_to_audit(48) if "</s>" not in text]
    vectors = by_sentence_transformers("lasttoken")(texts, ["document"] * len(texts))
    table = pa.table({"note": texts, "vector": list(vectors)})
    pq.write_table(table, "notes.parquet")
    with addresses(mini_embedder) as urls:
        for shown, url in urls.items():
            command = command.replace(shown, url)
        done = run("audit", *shlex.split(command)[1:])
    assert NUMBER.sub("x", done.out) == NUMBER.sub("x", expected)
    numbers = [[float(each) for each in NUMBER.findall(text)] for text in (done.out, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.01)
