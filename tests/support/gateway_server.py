"""The real gateway on a free port: started, asked over HTTP, stopped with SIGTERM.

Knows how the gateway is run and what it counts, and nothing of what it answers.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from server import ROOT, START_SECONDS, STOP_SECONDS, kill_group
from waiting import wait_until

WEIGHTS = ROOT / "weights" / "e5-mini"


@dataclass(frozen=True)
class GatewayServer:
    """A running gateway.

    Attributes:
        url: where it listens, without a path.
        client: talks to it; paths are relative, as in `client.get("/ready")`.
        process: the gateway's process.
        log_file: what it wrote.
    """

    url: str
    client: httpx2.Client
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """What the gateway has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def counted(self, name: str = "e5_gateway_requests_total", **labels: str) -> int:
        """The sum of a counter over all with these labels, such as `status="400"`.

        `/metrics` is left out, so that asking changes nothing.
        """
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return sum(
            int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == name
            and labels.items() <= sample.labels.items()
            and sample.labels.get("route") != "/metrics"
        )

    def wait_until_ready(self) -> None:
        """Poll `/ready` until it says 200."""

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}:\n{self.log}")
            with suppress(httpx2.TransportError):
                return self.client.get("/ready").status_code == 200
            return False

        wait_until(is_ready, seconds=START_SECONDS)


def hang_up(gateway: GatewayServer) -> None:
    """Close this process's connections: some clients keep them, and offer no way to close them."""
    port = urlsplit(gateway.url).port
    for thing in gc.get_objects():
        # Not isinstance: that asks lazy modules for their class, and some of them warn.
        if not issubclass(type(thing), socket.socket) or thing.fileno() == -1:
            continue
        with suppress(OSError):
            name = thing.getpeername()
            if thing.family in (socket.AF_INET, socket.AF_INET6) and name[1] == port:
                thing.close()


@contextmanager
def serve_gateway(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    key: str | None = None,
    stop: bool = True,
) -> Iterator[GatewayServer]:
    """Run the gateway on the built-in checkpoint in float32; it must stop on SIGTERM with code 0.

    Args:
        arguments: of the command, such as `"--alias", "NAME=MODEL"`.
        env: more environment variables. Of the caller's own, `E5_*` are left out.
        key: the only one that may ask; `client` sends it.
        stop: False where a test ends the process in its own way; nothing is left behind either way.

    Example:
        >>> with serve_gateway("--alias", "text-embedding-3-small=e5-mini-query") as gateway:
        ...     gateway.client.get("/health").json()
        {'status': 'alive'}
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("E5_")},
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
            "E5_WEIGHTS": str(WEIGHTS),
            "E5_DEVICE": "cpu",
            "E5_DTYPE": "float32",
            **(env or {}),
        }
        headers = {}
        if key is not None:
            keys = Path(folder) / "keys"
            keys.write_text(key, encoding="utf-8")
            arguments += ("--keys", str(keys))
            headers["Authorization"] = f"Bearer {key}"
        log_file = Path(folder) / "gateway.log"
        limits = httpx2.Limits(max_connections=None)
        with (
            httpx2.Client(
                base_url=url, headers=headers, timeout=60, limits=limits, trust_env=False
            ) as client,
            log_file.open("wb") as log,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "e5", "gateway", *arguments],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            server = GatewayServer(url, client, process, log_file)
            try:
                server.wait_until_ready()
                yield server
                if stop:
                    assert process.poll() is None, f"ended by itself:\n{server.log}"
                    process.send_signal(signal.SIGTERM)
                    code = process.wait(STOP_SECONDS)
                    assert code == 0, f"exit code {code}:\n{server.log}"
            finally:
                kill_group(process)
