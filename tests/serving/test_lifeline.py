"""A child ends with its parent, in whatever state both are, and shows it that it lives."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from process_stand_ins import state_of
from server import ROOT
from waiting import wait_until

from e5.serving.lifeline import FrontPlace

pytestmark = pytest.mark.slow

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from e5.serving.lifeline import tie_to_parent
tie_to_parent({folder})
print("begun", flush=True)
time.sleep(600)
"""
# It starts a child as the parent of engines does, says which, and waits to be killed.
PARENT = """
import socket, subprocess, sys, time
ours, theirs = socket.socketpair()
child = subprocess.Popen([sys.executable, "-S", "-c", {child!r}], stdin=theirs, stdout=-1,
                         start_new_session=True)
theirs.close()
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize("has_folder", [False, True])
def test_a_child_ends_when_its_parent_is_killed(
    has_folder: bool, is_stopped: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "socket").write_text("")
    argument = f"Path({str(folder)!r})" if has_folder else ""
    code = PARENT.format(child=CHILD.format(root=str(ROOT), folder=argument))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert state_of(child)
        if is_stopped:
            os.kill(child, signal.SIGSTOP)
            wait_until(lambda: state_of(child) == "T")
        parent.kill()
    wait_until(lambda: not state_of(child))
    assert folder.exists() != has_folder


def test_what_a_front_is_told_survives_the_command_line() -> None:
    place = FrontPlace("front-1", "/run/a b", ["/run/a b/engine-1.sock"], 7)
    assert FrontPlace.from_json(place.to_json()) == place


def test_a_pulse_goes_on_while_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e5.serving.lifeline.PULSE_SECONDS", 0.0)
    ours, theirs = socket.socketpair()
    monkeypatch.setattr("os.dup", lambda _: theirs.detach())  # its standard input is this
    with ours:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

        async def story() -> None:
            pulse = asyncio.create_task(FrontPlace("front-1", "", [], 0).pulse())
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not pulse.done()
            pulse.cancel()

        asyncio.run(story())
        assert set(ours.recv(1 << 20)) == {ord(".")}
