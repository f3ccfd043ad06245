"""On a real S3 API: a killed run goes on, what has changed is changed, and an index is built there.

The server is moto's, on this machine.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus_tools import ROOT, texts
from pyarrow import fs

from e5.corpora.filesystem import open_filesystem
from e5.corpora.index import Index
from e5.corpora.shard_folder import ShardFolder
from e5.embedder import Embedder

moto = pytest.importorskip("moto.server", reason="moto is not installed")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the server's own


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.FileSystem]:
    """An empty one, called `bucket`."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
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
        yield open_filesystem("s3://bucket")[0]
    finally:
        server.stop()


def put(bucket: fs.FileSystem, name: str, rows: list[str]) -> None:
    with bucket.open_output_stream(f"bucket/in/{name}") as file:
        file.write("".join(f"{row}\n" for row in ["text", *rows]).encode())


def held() -> list[str]:
    folder = ShardFolder("s3://bucket/out")
    shards = [folder.read(name) for name in folder.shard_names()]
    return sorted(text for shard in shards if shard for text in shard.table["text"].to_pylist())


def test_a_corpus_in_a_bucket_is_mirrored_into_a_bucket(
    bucket: fs.FileSystem, checkpoint: Path, embedder: Embedder
) -> None:
    environment = os.environ | {"E5_WEIGHTS": str(checkpoint), "E5_DTYPE": "float32"}
    command = [str(ROOT / "scripts/embed_corpus"), "s3://bucket/in", "s3://bucket/out"]
    command += ["--rows-per-shard", "30"]

    def run() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE
        )

    rows = texts(2500)
    put(bucket, "a.csv", rows[:2000])
    put(bucket, "b.csv", rows[2000:])
    killed = run()
    folder = ShardFolder("s3://bucket/out")
    while len(folder.shard_names()) < 5 and killed.poll() is None:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    there = len(folder.shard_names())
    assert 5 <= there < 84
    printed = run().communicate()[0]
    assert "holds 2,500 documents" in printed
    assert held() == sorted(rows)

    put(bucket, "a.csv", ["new", *rows[1:1990]])
    printed = run().communicate()[0]
    assert "holds 2,490 documents; 1 vectors computed, 0 reused; 10 documents removed" in printed
    assert held() == sorted(["new", *rows[1:1990], *rows[2000:]])
    index = Index.build(folder, "s3://bucket/index")
    assert len(index) == 2490
    assert index.find(embedder, "new", task="", top=1)[0].id == "a.csv:0"
