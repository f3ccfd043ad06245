"""Runs a Cog server or a gateway on a free port while it is measured."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
SLOTS = 256  # predictions that Cog runs at a time
Predict = Callable[[Mapping[str, Any]], dict[str, Any]]


@contextmanager
def serve(stub: str = "predict.py:Predictor", **environment: str) -> Iterator[Predict]:
    """Start a server as `running` does; yield a function from inputs to Cog's answer."""
    limits = httpx2.Limits(max_connections=None)
    with (
        running(stub, **environment) as url,
        httpx2.Client(base_url=url, timeout=60, limits=limits, trust_env=False) as client,
    ):

        def predict(inputs: Mapping[str, Any]) -> dict[str, Any]:
            answer: dict[str, Any] = request_prediction(client, inputs).json()
            return answer

        yield predict


def request_prediction(client: httpx2.Client, inputs: Mapping[str, Any]) -> httpx2.Response:
    """Request a prediction, again and again while Cog has no free slot.

    Raises:
        RuntimeError: the prediction failed; the message holds the answer.
    """
    answer = client.post("/predictions", json={"input": inputs})
    while answer.status_code == 409:  # Cog frees a slot after it has sent the answer
        time.sleep(0.01)
        answer = client.post("/predictions", json={"input": inputs})
    if b'"status":"succeeded"' not in answer.content:
        raise RuntimeError(f"the server answered {answer.text[:500]}")
    return answer


@contextmanager
def running(
    stub: str = "predict.py:Predictor",
    *,
    module: str = "cog.server.http",
    arguments: Sequence[str] = (),
    **environment: str,
) -> Iterator[str]:
    """Start a Cog server as scripts/serve does, or a gateway; yield its URL.

    Args:
        stub: FILE:CLASS of the predictor, FILE relative to the project's folder.
        module: the module that is run. It must answer `/health-check` as Cog does.
        arguments: of the module, beside the port.
        environment: more variables. The caller's own `E5_*` and `COG_*` are not passed on.

    Raises:
        RuntimeError: the server did not start; the message holds its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("E5_", "COG_"))}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Each prediction leaves folders in TMPDIR.
        settings = {
            "PATH": path,
            "PORT": str(port),
            "TMPDIR": folder,
            "COG_MAX_CONCURRENCY": str(SLOTS),
        }
        settings |= {"COG_PREDICT_TYPE_STUB": stub, **environment}
        log = Path(folder) / "server.log"
        host = ["--host", "127.0.0.1"] if module == "cog.server.http" else []
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *host, *arguments],
                cwd=ROOT,
                env=kept | settings,
                stdout=file,
                stderr=file,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            if not _is_ready(url, process):
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _is_ready(url: str, process: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + START_SECONDS
    status = "STARTING"
    while status == "STARTING" and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
        with suppress(httpx2.TransportError):
            answer = httpx2.get(f"{url}/health-check", trust_env=False)
            status = answer.json()["status"]
    return status == "READY"
