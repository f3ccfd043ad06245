"""A small HTTP server on a loopback port that answers as a function says.

Real sockets, and no answers of its own.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

# A status and a body, and headers if there are any; or all that is written before the connection is
# closed; or a generator of such pieces.
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]] | bytes | Iterator[bytes]
HALF = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"status": "succ'


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        """The content as JSON."""
        return json.loads(self.content)


@contextmanager
def serve_http(answer: Callable[[Asked], Reply]) -> Iterator[str]:
    """Run the server; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # which delays the body by 40 ms

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length)
            self._send(answer(Asked(self.command, self.path, dict(self.headers), content)))

        def _send(self, sent: Reply) -> None:
            try:
                self._write(sent)
            except OSError:
                self.close_connection = True  # the client has had enough

        def _write(self, sent: Reply) -> None:
            if not isinstance(sent, tuple):
                self.close_connection = True
                for piece in [sent] if isinstance(sent, bytes) else sent:
                    self.wfile.write(piece)
                return
            status, body, *more = sent
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Write no log."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of connections that come at once
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
