"""A small HTTP server on a loopback port that answers `POST /predictions` as it is told.

Real sockets, no answers of its own: a test says what goes over the wire, request by request. Knows
nothing of what the client should do.
"""

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit

# A status and a body; or all that is written before the connection is closed; or a generator of
# such pieces.
Reply = tuple[int, Any] | bytes | Iterator[bytes]
Inputs = dict[str, Any]


@dataclass
class FakeCog:
    """A running server.

    Attributes:
        url: of it.
        bodies: what was sent, prediction by prediction.
        headers: of the same.
        health: what `/health-check` answers.
    """

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    health: Reply = (200, {"status": "READY"})

    @property
    def inputs(self) -> list[Inputs]:
        """The inputs of the predictions."""
        return [body["input"] for body in self.bodies]


def succeeded(inputs: Inputs, *, model: str = "toy@1") -> tuple[int, Any]:
    """The answer for texts that are numbers: `[number, 1, 0, 0, ...]`, of four dimensions."""
    width = inputs.get("dimensions", 4)
    texts = [*inputs.get("queries", []), *inputs.get("documents", [])]
    rows = [[float(text) if text.isdigit() else -1.0, 1.0, 0.0, 0.0][:width] for text in texts]
    output = {
        "embeddings": None,
        "embeddings_base64": [
            b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in rows
        ],
        "model": model,
    }
    return 200, {"status": "succeeded", "output": output}


def failed(error: str) -> tuple[int, Any]:
    """The answer for a prediction that raised, as Cog words it."""
    sentence = f"Prediction failed: Async prediction failed: {error}"
    return 200, {"status": "failed", "error": sentence}


@contextmanager
def fake_cog(reply: Callable[[int, Inputs], Reply]) -> Iterator[FakeCog]:
    """Run the server; `reply` is told the number of the prediction, from 0, and its inputs."""
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if urlsplit(self.path).path.removeprefix("/prefix") != "/predictions":
                self._send((404, b""))
                return
            body = json.loads(content)
            inputs = body["input"]
            with lock:
                number = len(cog.bodies)
                cog.bodies.append(body)
                cog.headers.append(dict(self.headers))
            self._send(reply(number, inputs))

        def do_GET(self) -> None:
            self._send(cog.health if self.path == "/health-check" else (404, b""))

        def _send(self, sent: Reply) -> None:
            if not isinstance(sent, tuple):
                self.close_connection = True
                try:
                    for piece in [sent] if isinstance(sent, bytes) else sent:
                        self.wfile.write(piece)
                except OSError:
                    pass  # the client has had enough
                return
            status, body = sent
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        cog = FakeCog(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield cog
        finally:
            server.shutdown()
            thread.join()
