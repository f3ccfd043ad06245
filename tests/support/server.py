"""The real Cog server on a free port: started, asked over HTTP, stopped with SIGTERM.

Each server runs in a temporary folder that holds links to `predict.py` and `e5`, so that a schema
file lies in its working directory only if a test asks for one.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from ports import free_port

ROOT = Path(__file__).parent.parent.parent
SCHEMA = ROOT / "tests" / "openapi_schema.json"
PREDICTIONS = Path("/tmp/coglet/predictions")  # where Cog makes its folders
START_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        client: talks to it; paths are relative, as in `client.get("/health-check")`.
        process: the server's parent process; its group holds the worker too.
        log_file: what both wrote.
    """

    client: httpx2.Client
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def health(self) -> dict[str, Any]:
        """The answer of `/health-check`: `status`, and `setup` with its logs."""
        health: dict[str, Any] = self.client.get("/health-check").json()
        return health

    def wait_for(self, *statuses: str, seconds: float = STOP_SECONDS) -> str:
        """Poll `/health-check` until it says one of `statuses`; returns which."""
        end = time.monotonic() + seconds
        seen = "nothing"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the server exited with {self.process.returncode}:\n{self.log}"
                )
            try:
                seen = self.health()["status"]
            except httpx2.TransportError:
                seen = "no answer"
            if seen in statuses:
                return seen
            time.sleep(0.02)
        raise AssertionError(f"waited for {statuses}, health-check says {seen}:\n{self.log}")

    def num_running(self) -> int:
        """How many predictions run; the service writes it whenever it is asked for its health."""
        self.health()
        return int((PREDICTIONS.parent / f"e5-running-{self.client.base_url.port}").read_text())

    def post(
        self, path: str = "/predictions", *, headers: Mapping[str, str] | None = None, **body: Any
    ) -> httpx2.Response:
        """POST, and again while the answer is 409: Cog frees a slot only after it has answered."""
        while True:
            response = self.client.post(path, headers=headers, **body)
            if response.status_code != 409:
                return response
            time.sleep(0.01)

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One prediction: Cog's whole answer, with `status`, `output`, `error` and `metrics`."""
        response = self.post(json={"input": inputs})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def serve(
    weights: Path,
    *,
    env: Mapping[str, str] | None = None,
    with_schema: bool = False,
    until: str = "READY",
    stop: bool = True,
) -> Iterator[Server]:
    """Run the server on a weights folder; at the end it must stop on SIGTERM with exit code 0.

    Args:
        weights: the checkpoint, relative to the project's root or absolute.
        env: more environment variables. Of the caller's own, `E5_*` and `COG_*` are left out.
        with_schema: give Cog the schema file, so that it validates inputs before us.
        until: the health to wait for; any other final one is an error with the server's log.
        stop: False where a test ends the server in its own way; nothing is left behind either way.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home, port = Path(folder), free_port()
        for name in ("predict.py", "e5"):
            (home / name).symlink_to(ROOT / name)
        if with_schema:
            (home / ".cog").mkdir()
            (home / ".cog" / "openapi_schema.json").write_bytes(SCHEMA.read_bytes())
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("E5_", "COG_"))},
            # Cog starts its worker as bare `python`.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "TMPDIR": folder,
            "PORT": str(port),
            "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
            "COG_MAX_CONCURRENCY": "256",
            "LOG_FORMAT": "console",
            "E5_WEIGHTS": str(ROOT / weights),
            **(env or {}),
        }
        log_file = home / "server.log"
        limits = httpx2.Limits(max_connections=None)
        with (
            httpx2.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits, trust_env=False
            ) as client,
            log_file.open("wb") as log,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
                cwd=home,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_few_open_files,
            )
            server = Server(client, process, log_file)
            try:
                status = server.wait_for(
                    "READY", "SETUP_FAILED", "UNHEALTHY", seconds=START_SECONDS
                )
                assert status == until, f"{status}:\n{server.log}"
                yield server
                if stop:
                    if process.poll() is None:
                        process.send_signal(signal.SIGTERM)
                    code = process.wait(STOP_SECONDS)
                    assert code == 0, f"exit code {code}:\n{server.log}"
            finally:
                kill_group(process)


def _few_open_files() -> None:
    """As many as most shells and containers allow; each of Cog's slots takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind, whatever happened; a group that is already gone is fine."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
