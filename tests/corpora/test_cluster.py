"""On a real Ray, on this machine: the same files as the loop's, whoever dies on the way.

Workers run on the CPU. What kills or delays them is a `sitecustomize` module, so that the code
under test is the shipped one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
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
from server import free_port

from e5.corpora.cluster import Cluster
from e5.corpora.corpus import Corpus
from e5.corpora.journal import ATTEMPTS
from e5.corpora.plan import Unit
from e5.corpora.runner import Summary
from e5.corpora.shard_folder import ShardFolder
from e5.corpora.synchronize import embed_corpus
from e5.errors import EngineError
from e5.settings import Settings

pytestmark = pytest.mark.slow

# Runs in every Python that starts with this folder on its path; only Ray's workers are touched.
SABOTAGE = """
import os, sys, time

if any("default_worker.py" in argument for argument in sys.orig_argv):
    import tokenizers

    class Tokenizer:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def encode_batch_fast(self, texts, **options):
            if any("poison" in text for text in texts):
                os.kill(os.getpid(), 9)
            time.sleep(float(os.environ["TEST_DELAY"]))
            return self._real.encode_batch_fast(texts, **options)

    import e5.tokenizer

    initialise = e5.tokenizer.Tokenizer.__init__

    def sabotaged(self, file, **options):
        initialise(self, file, **options)
        self._tokenizer = Tokenizer(self._tokenizer)

    e5.tokenizer.Tokenizer.__init__ = sabotaged
"""


class Runner:
    """Starts the command as a user would, with the saboteur on its workers' path."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        """Embed what is in `folder` with a checkpoint."""
        self.folder = folder
        (folder / "sitecustomize.py").write_text(SABOTAGE)
        self.environment = os.environ | {
            "E5_WEIGHTS": str(checkpoint),
            "E5_DTYPE": "float32",
            "E5_DEVICE": "cpu",
            "PYTHONPATH": f"{ROOT}/scripts:{ROOT}:{folder}",
            "TEST_DELAY": "0",
            "RAY_ADDRESS": "127.0.0.1:1",  # a cluster that nobody asked for
        }

    def start(self, out: str, *options: str) -> "subprocess.Popen[str]":
        code = [sys.executable, "-m", "e5", "embed-corpus"]
        command = [*code, self.folder / "in", self.folder / out, "--id-column", "id"]
        return subprocess.Popen(
            [*map(str, command), "--rows-per-shard", "20", *options],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, out: str, *options: str) -> tuple[int, str]:
        process = self.start(out, *options)
        printed = process.communicate(timeout=240)
        return process.returncode, "".join(printed)


@pytest.fixture
def runner(tmp_path: Path, checkpoint: Path) -> Runner:
    return Runner(tmp_path, checkpoint)


def workers() -> list[int]:
    """Process ids of Ray's actors that embed, on this machine."""
    found = subprocess.run(["pgrep", "-f", "ray::.*Worker"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def wait_for_shards(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while len(shard_names(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_cluster_writes_what_the_loop_writes(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.jsonl"
    write_corpus(path, [*texts(50), " ", *texts(49, 1)])
    code, printed = runner.run("loop")
    assert code == 3, printed
    code, printed = runner.run("ray", "--runner", "ray", "--workers", "1:2")
    assert code == 3, printed
    assert "99 documents" in printed
    assert "1 dead letters" in printed
    assert shard_names(tmp_path / "ray") == shard_names(tmp_path / "loop")
    loop, ray = read_shards(tmp_path / "loop"), read_shards(tmp_path / "ray")
    assert ray.select(["id", "text"]) == loop.select(["id", "text"])
    np.testing.assert_allclose(vectors_of(ray), vectors_of(loop), atol=1e-3, rtol=1e-3)
    assert dead_letters(tmp_path / "ray") == dead_letters(tmp_path / "loop")
    write_corpus(path, ["new", *texts(50)[1:30], *texts(49, 1)])  # and changes what has changed
    for name, options in (("loop", []), ("ray", ["--runner", "ray"])):
        code, printed = runner.run(name, *options)
        assert code == 0, printed
        assert "holds 79 documents; 1 vectors computed" in printed
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "loop")
    for name in ("loop", "ray"):
        manifest = json.loads((tmp_path / name / "_manifest.json").read_text())
        assert manifest["model"].startswith("small@")


def rows_of(out: Path) -> list[tuple[str, str]]:
    table = read_shards(out)
    return sorted(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def test_killed_actors_and_a_killed_driver_lose_nothing(runner: Runner, tmp_path: Path) -> None:
    rows = texts(400)
    write_corpus(tmp_path / "in" / "a.jsonl", rows)
    runner.environment["TEST_DELAY"] = "0.015"  # a text; a unit has 20
    out = tmp_path / "out"
    process = runner.start("out", "--runner", "ray", "--workers", "2")
    for done in (2, 5):
        wait_for_shards(out, done, process)
        finished = {name: (out / name).stat().st_mtime_ns for name in shard_names(out)}
        actors = workers()
        assert actors
        os.kill(actors[0], signal.SIGKILL)
    wait_for_shards(out, 9, process)
    assert finished.items() <= {n: (out / n).stat().st_mtime_ns for n in finished}.items()
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while workers() and time.monotonic() < end:
        time.sleep(0.1)
    assert workers() == []  # they end with their driver
    before = {name: (out / name).stat().st_mtime_ns for name in shard_names(out)}
    assert 9 <= len(before) < 20
    code, printed = runner.run("out", "--runner", "ray", "--workers", "2")
    assert code == 0, printed
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert read_shards(out)["text"].to_pylist() == rows
    assert list((out / ATTEMPTS).iterdir()) == []


def test_a_document_that_kills_its_worker_ends_among_the_dead_letters(
    runner: Runner, tmp_path: Path
) -> None:
    rows = texts(60)
    rows[30], rows[33] = "poison one", "poison two"
    write_corpus(tmp_path / "in" / "a.jsonl", rows)
    code, printed = runner.run("out", "--runner", "ray")
    assert code == 3, printed
    found = dead_letters(tmp_path / "out")
    assert list(found) == ["a-30", "a-33"]
    assert set(found.values()) == {"the worker that computed it died, 2 times"}
    kept = [row for row in rows if "poison" not in row]
    assert read_shards(tmp_path / "out")["text"].to_pylist() == kept
    assert list((tmp_path / "out" / ATTEMPTS).iterdir()) == []


def test_a_running_cluster_is_joined_by_its_address(runner: Runner, tmp_path: Path) -> None:
    write_corpus(tmp_path / "in" / "a.jsonl", texts(45))
    address = f"127.0.0.1:{free_port()}"
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"),
            *("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"),
        ],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        code, printed = 1, "no cluster"
        while "no cluster" in printed and time.monotonic() < end:
            code, printed = runner.run("out", "--runner", "ray", "--ray-address", address)
        assert code == 0, printed
        assert head.poll() is None
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    assert len(shard_names(tmp_path / "out")) == 3


def test_what_a_worker_cannot_load_is_said_in_a_sentence(runner: Runner, tmp_path: Path) -> None:
    write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    runner.environment["E5_WEIGHTS"] = str(tmp_path / "nowhere")
    code, printed = runner.run("out", "--runner", "ray")
    assert code == 1
    assert "there is no such weights folder" in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.filterwarnings("ignore")  # Ray's own, in this process for once
def test_what_is_no_document_s_fault_stops_the_run_with_its_reason(
    tmp_path: Path, checkpoint: Path
) -> None:
    class Vanishing(Cluster):
        """Loses the corpus's second file before it begins."""

        def embed_units(
            self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
        ) -> Iterator[Summary]:
            (Path(corpus.location) / "b.jsonl").unlink()
            yield from super().embed_units(units, corpus, folder)

    for name in ("a", "b"):
        write_corpus(tmp_path / "in" / f"{name}.jsonl", texts(30))
    cluster = Vanishing(Settings(weights=checkpoint, device="cpu", dtype="float32"))
    folder = ShardFolder(str(tmp_path / "out"))
    try:
        with pytest.raises(EngineError, match=r"^b\.jsonl: received a file that cannot be read"):
            embed_corpus(Corpus(str(tmp_path / "in")), folder, cluster, rows_per_shard=10)
    finally:
        ray.shutdown()


def test_a_worker_has_a_gpu_unless_there_is_none_or_none_is_wanted() -> None:
    assert Cluster(Settings(device="cpu"), "auto").gpus == 0
    assert Cluster(Settings(), "auto").gpus == 1
    assert Cluster(Settings()).gpus == torch.cuda.is_available()
