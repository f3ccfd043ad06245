"""On a real S3 API: a killed run goes on, what has changed is changed, and an index is built there.

The server is moto's, on this machine.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus_tools import ROOT, texts
from pyarrow import fs

from e5.corpora import Corpus, Index, Loop, ShardFolder, embed_corpus
from e5.corpora.filesystem import open_filesystem
from e5.embedder import Embedder

moto = pytest.importorskip("moto.server", reason="moto is not installed")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the server's own


WAIT_SECONDS = 120.0


class Gate:
    """A WSGI application before the server's: closed, it answers no request that writes a shard."""

    def __init__(self, application: Any) -> None:
        """Stand before an application, open."""
        self._application = application
        self._lock, self._open = threading.Lock(), threading.Event()
        self._open.set()
        self._passes = 0

    def close(self, passes: int) -> None:
        """Let so many shards be written, and hold the others."""
        self._passes = passes
        self._open.clear()

    def open(self) -> None:
        """Let everything pass. What was held is refused: who sent it is dead."""
        self._open.set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request, as WSGI servers ask for it."""
        if environ["REQUEST_METHOD"] == "PUT" and "/out/part-" in environ["PATH_INFO"]:
            with self._lock:
                held = not self._open.is_set() and self._passes == 0
                self._passes -= not held
            if held:
                self._open.wait(WAIT_SECONDS)
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


@pytest.fixture
def server() -> Iterator[Any]:
    """The S3, with a gate before it."""
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    running._server.app = Gate(running._server.app)
    try:
        yield running
    finally:
        running._server.app.open()
        running.stop()


@pytest.fixture
def gate(server: Any) -> Gate:
    found: Gate = server._server.app
    return found


@pytest.fixture
def bucket(server: Any, monkeypatch: pytest.MonkeyPatch) -> fs.FileSystem:
    """An empty one, called `bucket`."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ALLOW_HTTP": "true",  # for LanceDB
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    return open_filesystem("s3://bucket")[0]


def put(bucket: fs.FileSystem, name: str, rows: list[str]) -> None:
    with bucket.open_output_stream(f"bucket/in/{name}") as file:
        file.write("".join(f"{row}\n" for row in ["text", *rows]).encode())


def held() -> list[str]:
    folder = ShardFolder("s3://bucket/out")
    shards = [folder.read(name) for name in folder.shard_names()]
    return sorted(text for shard in shards if shard for text in shard.table["text"].to_pylist())


def test_a_corpus_in_a_bucket_is_mirrored_into_a_bucket(
    bucket: fs.FileSystem, gate: Gate, checkpoint: Path, embedder: Embedder
) -> None:
    environment = os.environ | {"E5_WEIGHTS": str(checkpoint), "E5_DTYPE": "float32"}
    command = [str(ROOT / "scripts/embed_corpus"), "s3://bucket/in", "s3://bucket/out"]
    command += ["--rows-per-shard", "4"]

    def run() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE
        )

    rows = texts(140)  # 35 shards: the index takes more than one commit
    put(bucket, "a.csv", rows[:100])
    put(bucket, "b.csv", rows[100:])
    gate.close(passes=2)
    killed = run()
    folder = ShardFolder("s3://bucket/out")
    end = time.monotonic() + WAIT_SECONDS
    while len(folder.shard_names()) < 2:
        assert killed.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    gate.open()
    assert len(folder.shard_names()) == 2
    printed = run().communicate()[0]
    assert "holds 140 documents" in printed
    assert held() == sorted(rows)

    put(bucket, "a.csv", ["new", *rows[1:90]])
    report = embed_corpus(
        Corpus("s3://bucket/in"), folder, Loop(lambda: embedder), rows_per_shard=4
    )
    figures = (report.documents, report.summary.computed, report.summary.reused, report.removed)
    assert figures == (130, 1, 0, 10)
    assert held() == sorted(["new", *rows[1:90], *rows[100:]])
    index = Index.build(folder, "s3://bucket/index")
    assert len(index) == 130
    assert index.find(embedder, "new", task="", top=1)[0].id == "a.csv:0"
