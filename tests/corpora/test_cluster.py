"""On a real Ray, on this machine: the same files as the loop's, whoever dies on the way.

Workers run on the CPU. The tests share one cluster, because a worker takes seconds to start. What
kills or holds its workers is a `sitecustomize` module, so that the code under test is the shipped
one, and the texts say when it does so.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from corpus_tools import (
    ROOT,
    dead_letters,
    read_shards,
    shard_names,
    texts,
    vectors_of,
    write_corpus,
)

from e5.corpora import Cluster, Corpus, Loop, Report, ShardFolder, embed_corpus
from e5.corpora.journal import ATTEMPTS
from e5.embedder import Embedder
from e5.errors import EngineError, WeightsError
from e5.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

Start = Callable[..., "subprocess.Popen[str]"]

WAIT_SECONDS = 600.0  # for what takes seconds; a busy machine is slow
COMMAND = [str(ROOT / "scripts" / "embed_corpus")]
DEATH, TICKET = "poison", "ticket "

# Runs in every Python that the cluster starts; only Ray's workers are touched. A worker dies of a
# text that begins with `poison`, and waits at `ticket FOLDER NUMBER` until it can take a file from
# the folder, or until the folder is gone.
SABOTAGE = f"""
import os, sys, time

if any("default_worker.py" in argument for argument in sys.orig_argv):
    import e5.tokenizer

    def wait_for_a_ticket(folder):
        while os.path.isdir(folder):
            for ticket in os.listdir(folder):
                try:
                    return os.remove(os.path.join(folder, ticket))
                except FileNotFoundError:  # another worker took it
                    pass
            time.sleep(0.02)

    class Tokenizer:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def encode_batch_fast(self, texts, **options):
            for text in texts:
                if text.startswith("{DEATH}"):
                    os.kill(os.getpid(), 9)
                if text.startswith("{TICKET}"):
                    wait_for_a_ticket(text[{len(TICKET)}:].rpartition(" ")[0])
            return self._real.encode_batch_fast(texts, **options)

    initialise = e5.tokenizer.Tokenizer.__init__

    def sabotaged(self, file, **options):
        initialise(self, file, **options)
        self._tokenizer = Tokenizer(self._tokenizer)

    e5.tokenizer.Tokenizer.__init__ = sabotaged
"""


@dataclass(frozen=True)
class RunningCluster:
    """A cluster of one node, with a saboteur in its workers.

    Attributes:
        address: where drivers join it.
        head: its first process, which all others descend from.
    """

    address: str
    head: "subprocess.Popen[bytes]"

    def workers(self) -> set[int]:
        """Process ids of the actors that embed."""
        found = set()
        for process in psutil.Process(self.head.pid).children(recursive=True):
            try:
                title = process.cmdline()[:1]
            except psutil.Error:  # it has just ended
                continue
            if title and title[0].startswith("ray::") and "Worker" in title[0]:
                found.add(process.pid)
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """The one that tests join, in this process or in a command's."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: Ray's sockets are below it
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address=127.0.0.1", "--port=0", f"--temp-dir={folder}"),
            *("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"),
        ],
        env=os.environ
        | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": f"{folder}:{ROOT}/scripts:{ROOT}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield RunningCluster(_address_in(folder, head), head)
    finally:
        ray.shutdown()
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _address_in(folder: Path, head: "subprocess.Popen[bytes]") -> str:
    end = time.monotonic() + WAIT_SECONDS
    file = folder / "ray_current_cluster"  # written when the cluster has started
    while not (file.is_file() and file.read_text()):
        assert head.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return file.read_text().strip()


@pytest.fixture
def settings(checkpoint: Path) -> Settings:
    return Settings(weights=checkpoint, device="cpu", dtype="float32")


@pytest.fixture
def start(tmp_path: Path, settings: Settings) -> Iterator[Start]:
    """Starts the command as a user would, on the corpus in the test's folder."""
    started: list[subprocess.Popen[str]] = []

    def run(out: str, *options: str, rows_per_shard: int = 20) -> "subprocess.Popen[str]":
        files = [str(tmp_path / "in"), str(tmp_path / out)]
        numbers = ["--id-column", "id", "--rows-per-shard", str(rows_per_shard)]
        process = subprocess.Popen(
            [*COMMAND, *files, *numbers, "--runner", "ray", *options],
            env=os.environ
            | {
                "E5_WEIGHTS": str(settings.weights),
                "E5_DTYPE": "float32",
                "E5_DEVICE": "cpu",
                "RAY_ADDRESS": "127.0.0.1:1",  # a cluster that nobody asked for
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def embed(folder: Path, out: str, runner: Loop | Cluster, rows_per_shard: int = 20) -> Report:
    """The same in this process."""
    return embed_corpus(
        Corpus(str(folder / "in"), id_column="id"),
        ShardFolder(str(folder / out)),
        runner,
        rows_per_shard=rows_per_shard,
    )


def wait_until(
    condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None
) -> None:
    """Wait for what happens while a process lives."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cluster_writes_what_the_loop_writes(
    tmp_path: Path, settings: Settings, start: Start
) -> None:
    """On a cluster of the command's own."""
    path = tmp_path / "in" / "a.jsonl"
    write_corpus(path, [*texts(30), " ", *texts(29, 1)])
    loop = Loop(lambda: Embedder.load(settings))
    embed(tmp_path, "loop", loop)
    process = start("ray", "--workers", "1:2")
    printed = "".join(process.communicate(timeout=WAIT_SECONDS))
    assert process.returncode == 3, printed
    assert "59 documents" in printed
    assert "1 dead letters" in printed
    assert_alike(tmp_path / "ray", tmp_path / "loop")
    manifest = json.loads((tmp_path / "ray" / "_manifest.json").read_text())
    assert manifest["model"].startswith("small@")


def assert_alike(out: Path, other: Path) -> None:
    """Two folders hold the same documents, in the same shards, with the same vectors."""
    assert shard_names(out) == shard_names(other)
    ours, theirs = read_shards(out), read_shards(other)
    assert ours.select(["id", "text"]) == theirs.select(["id", "text"])
    np.testing.assert_allclose(vectors_of(ours), vectors_of(theirs), atol=1e-3, rtol=1e-3)
    assert dead_letters(out) == dead_letters(other)


@pytest.mark.long  # starts workers anew for half a minute
def test_a_running_cluster_is_joined_by_its_address_and_changes_what_has_changed(
    tmp_path: Path, settings: Settings, cluster: RunningCluster
) -> None:
    path = tmp_path / "in" / "a.jsonl"
    write_corpus(path, [*texts(30), " ", *texts(29, 1)])
    embed(tmp_path, "loop", Loop(lambda: Embedder.load(settings)))
    shutil.copytree(tmp_path / "loop", tmp_path / "ray")
    write_corpus(path, ["new", *texts(30)[1:20], *texts(29, 1)])
    for out, runner in (
        ("loop", Loop(lambda: Embedder.load(settings))),
        ("ray", Cluster(settings, cluster.address)),
    ):
        report = embed(tmp_path, out, runner)
        assert (report.documents, report.summary.computed) == (49, 1)
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "loop")
    assert cluster.head.poll() is None


def rows_of(out: Path) -> list[tuple[str, str]]:
    table = read_shards(out)
    return sorted(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.mark.long  # starts workers anew for half a minute
def test_a_killed_actor_and_a_killed_driver_lose_nothing(
    tmp_path: Path, settings: Settings, cluster: RunningCluster, start: Start
) -> None:
    rows = texts(60)
    tickets = tmp_path / "tickets"
    tickets.mkdir()
    rows[5::10] = [f"{TICKET}{tickets} {unit}" for unit in range(6)]
    write_corpus(tmp_path / "in" / "a.jsonl", rows)
    out = tmp_path / "out"
    options = ("--workers", "2", "--ray-address", cluster.address)
    before = cluster.workers()
    process = start("out", *options, rows_per_shard=10)
    for shard in (1, 2):
        (tickets / str(shard)).touch()
    wait_until(lambda: len(written(out)) == 2 and len(cluster.workers() - before) == 2, process)
    finished = written(out)
    os.kill(min(cluster.workers() - before), signal.SIGKILL)
    for shard in (3, 4):
        (tickets / str(shard)).touch()
    wait_until(lambda: len(written(out)) == 4, process)
    process.kill()
    process.communicate()
    wait_until(lambda: cluster.workers() <= before)  # they end with their driver
    assert finished.items() <= written(out).items()
    finished = written(out)
    assert len(finished) == 4
    tickets.rmdir()
    report = embed(tmp_path, "out", Cluster(settings, cluster.address), rows_per_shard=10)
    assert (report.documents, report.dead_letters) == (60, 0)
    assert finished.items() <= written(out).items()
    assert read_shards(out)["text"].to_pylist() == rows
    assert list((out / ATTEMPTS).iterdir()) == []


def written(out: Path) -> dict[str, int]:
    """When each shard was written."""
    return {name: (out / name).stat().st_mtime_ns for name in shard_names(out)}


@pytest.mark.long  # starts workers anew for half a minute
def test_a_document_that_kills_its_worker_ends_among_the_dead_letters(
    tmp_path: Path, settings: Settings, cluster: RunningCluster
) -> None:
    rows = texts(30)
    rows[13], rows[16] = f"{DEATH} one", f"{DEATH} two"
    write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(tmp_path, "out", Cluster(settings, cluster.address), rows_per_shard=10)
    found = dead_letters(tmp_path / "out")
    assert list(found) == ["a-13", "a-16"]
    assert set(found.values()) == {"the worker that computed it died, 2 times"}
    kept = [row for row in rows if not row.startswith(DEATH)]
    assert read_shards(tmp_path / "out")["text"].to_pylist() == kept
    assert list((tmp_path / "out" / ATTEMPTS).iterdir()) == []


def test_what_a_worker_cannot_load_is_said_in_a_sentence(
    tmp_path: Path, cluster: RunningCluster
) -> None:
    nowhere = Settings(weights=tmp_path / "nowhere", device="cpu", dtype="float32")
    write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    with pytest.raises(WeightsError) as raised:
        embed(tmp_path, "out", Cluster(nowhere, cluster.address))
    assert "there is no such weights folder" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1  # not a traceback


def test_what_is_no_document_s_fault_stops_the_run_with_its_reason(
    tmp_path: Path, settings: Settings, cluster: RunningCluster
) -> None:
    class Vanishing(Cluster):
        """Loses the corpus's second file before it begins."""

        def embed_units(
            self, units: Sequence[Any], corpus: Corpus, folder: ShardFolder
        ) -> Iterator[Any]:
            (Path(corpus.location) / "b.jsonl").unlink()
            yield from super().embed_units(units, corpus, folder)

    for name in ("a", "b"):
        write_corpus(tmp_path / "in" / f"{name}.jsonl", texts(10))
    with pytest.raises(EngineError, match=r"^b\.jsonl: received a file that cannot be read"):
        embed(tmp_path, "out", Vanishing(settings, cluster.address), rows_per_shard=10)


def test_a_worker_has_a_gpu_unless_there_is_none_or_none_is_wanted() -> None:
    assert Cluster(Settings(device="cpu"), "auto").gpus == 0
    assert Cluster(Settings(), "auto").gpus == 1
    assert Cluster(Settings()).gpus == torch.cuda.is_available()
