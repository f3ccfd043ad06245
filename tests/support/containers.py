"""Docker from a test: an engine, images, and containers that run this project.

Containers are asked at their own addresses, because Docker's port proxy resets connections when a
container stops. So the engine has to be on this machine, and this machine has to be a Linux.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

ROOT = Path(__file__).parent.parent.parent
SECONDS = 300.0  # far longer than anything takes on a busy machine


def docker(*arguments: str | Path, check: bool = True, **options: Any) -> str:
    """What a command of Docker prints, on both streams."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ["docker", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **options,
    )
    assert not check or done.returncode == 0, f"docker {arguments}:\n{done.stdout[-4000:]}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container that was started.

    Attributes:
        name: of the container.
        port: of its server.
    """

    name: str
    port: int

    @property
    def url(self) -> str:
        """The server's address now; a container that comes back may have another one."""
        networks = self.inspect("{{json .NetworkSettings.Networks}}")
        (network,) = json.loads(networks).values()
        return f"http://{network['IPAddress'] or '127.0.0.1'}:{self.port}"

    @property
    def log(self) -> str:
        """What it has written on both streams."""
        return docker("logs", self.name)

    def inspect(self, template: str) -> str:
        """What `docker inspect` says, as a template of Go asks for it."""
        return docker("inspect", "--format", template, self.name)

    def execute(self, *command: str, check: bool = True, user: str = "") -> str:
        """What a command in the container prints."""
        options = ["--user", user] if user else []
        return docker("exec", *options, self.name, *command, check=check)

    def status(self) -> str:
        """What `/health-check` says; "" where nothing answers."""
        try:
            with direct_client() as client:
                return str(client.get(f"{self.url}/health-check").json()["status"])
        except (httpx2.HTTPError, ValueError, AssertionError):
            return ""

    def predict(self, **inputs: object) -> dict[str, Any]:
        """The answer to one prediction."""
        with direct_client() as client:
            answer = client.post(f"{self.url}/predictions", json={"input": inputs})
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, *statuses: str, seconds: float = SECONDS) -> str:
        """Ask for the status until it is one of these; returns which."""
        end = time.monotonic() + seconds
        while (seen := self.status()) not in statuses:
            state = self.inspect("{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}").split()
            has_ended = state[0] == "exited" and state[1:] in ([], ["no"])
            assert not has_ended, f"{self.name} has ended:\n{self.log[-4000:]}"
            assert time.monotonic() < end, f"{seen!r} instead of {statuses}:\n{self.log[-4000:]}"
            time.sleep(0.2)
        return seen

    def kill_worker(self) -> None:
        """Kill the process that holds the model, as the kernel does where memory ends."""
        pids = docker("top", self.name, "-eo", "pid,args").splitlines()
        workers = [int(line.split()[0]) for line in pids if "_run_worker" in line]
        assert len(workers) == 1, pids
        os.kill(workers[0], signal.SIGKILL)


def direct_client() -> httpx2.Client:
    """A client that uses no proxy."""
    return httpx2.Client(trust_env=False, timeout=SECONDS)


@contextmanager
def running(
    image: str,
    *command: str,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    port: int = 8080,
    until: Sequence[str] = ("READY",),
) -> Iterator[Container]:
    """Run a container until its server has one of these statuses; at the end it is removed.

    Args:
        image: its name.
        command: instead of the image's own.
        options: of `docker run`.
        env: environment variables.
        port: at which its server listens.
        until: statuses; none to wait for nothing.
    """
    name = f"e5-test-{uuid4().hex[:12]}"
    variables = [f"--env={key}={value}" for key, value in (env or {}).items()]
    docker("run", "--detach", "--name", name, *variables, *options, image, *command)
    container = Container(name, port)
    try:
        if until:
            container.wait_for(*until)
        yield container
    finally:
        docker("rm", "--force", "--volumes", name)


@contextmanager
def engine(folder: Path) -> Iterator[None]:
    """Docker's engine: the one that runs, else one of our own, whose data stay in a folder.

    Raises:
        RuntimeError: where there is none, with what to install.
    """
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise RuntimeError("no Docker engine answers; start one, or install docker.io as root")
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "docker.sock"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={folder / 'data'}",
                f"--exec-root={folder / 'exec'}",
                f"--pidfile={folder / 'pid'}",
                f"--host=unix://{socket}",
            ],
            stdout=log,
            stderr=log,
        )
    os.environ["DOCKER_HOST"] = f"unix://{socket}"
    try:
        end = time.monotonic() + 60
        while subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"dockerd did not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()
        del os.environ["DOCKER_HOST"]
