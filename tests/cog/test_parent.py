"""A process ends with the process that started it, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_tools import ROOT
from ports import free_port
from processes import children, lives, needs_linux
from waiting import SECONDS, wait_until

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import time
from e5.cog.worker import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(600)
'''])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_of_a_killed_process_ends(how: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    lines = sorted((parent.stdout.readline(), parent.stdout.readline()))
    child = int(lines[0])
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not lives(child))


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status"),
    [  # Cog itself ends its worker after SIGTERM while it is READY
        (signal.SIGKILL, "STARTING"),
        (signal.SIGTERM, "STARTING"),
        (signal.SIGKILL, "READY"),
    ],
)
def test_a_worker_ends_with_its_server(how: signal.Signals, status: str, tmp_path: Path) -> None:
    port = str(free_port())
    environment = os.environ | {"E5_WEIGHTS": str(ROOT / "weights/e5-mini"), "PORT": port}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([ROOT / "scripts/serve"], env=environment, stdout=log, stderr=log)
    probe = [ROOT / "scripts/probe"]

    def workers() -> list[int]:
        return [child for child in children(server.pid) if loads_torch(child)]

    def is_ready() -> bool:
        return subprocess.run(probe, env=environment, capture_output=True).stdout == b"READY\n"

    wait_until(is_ready if status == "READY" else workers)
    started = workers()
    assert started
    server.send_signal(how)
    server.wait(SECONDS)
    wait_until(lambda: not any(map(lives, started)))


def loads_torch(process: int) -> bool:
    """Whether a process has begun to load the model, so that it watches its parent already."""
    try:
        return "libtorch" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False
