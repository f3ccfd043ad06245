"""Runs the gateway by uvicorn, and ends it without losing an answer.

On SIGTERM `/ready` turns 503 for some seconds, so that a balancer stops sending; then no connection
is taken any more, what is in flight is answered, and the process ends.
"""

import asyncio
import gc
import re
import socket
from http import HTTPStatus
from types import FrameType
from uuid import uuid4

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from e5.gateway.app import Gateway
from e5.gateway.body import to_json
from e5.gateway.refusals import RefusalError, body_of
from e5.settings import Settings

KEEP_ALIVE_SECONDS = 75  # longer than clients and balancers keep a connection that they do not use
# Of a request's first line and headers; checked after each piece that the network delivers.
MAX_HEAD_BYTES = 64 * 1024
UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, with some seconds between the signal and the end."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_seconds: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain at the first signal, and end at once at the second."""
        if self._gateway.draining:
            self.should_exit = self.force_exit = True
            return
        self._gateway.drain()
        asyncio.get_running_loop().call_later(self._drain_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 without upgrades, with our refusals of what is not HTTP.

    Java's client offers HTTP/2 with each request, and the parser then drops the request's body. So
    the offer is removed before that. No valid JSON holds a line that looks like it.
    """

    _is_in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        """Begin a request: its first line and headers come now."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Begin to answer: the first line and the headers are whole."""
        self._is_in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the connection, in pieces of any size."""
        self._head_bytes += len(data)
        super().data_received(UPGRADE.sub(b"", data))
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:  # the parser keeps all of it
            sentence = f"the headers have more than {MAX_HEAD_BYTES} bytes; send fewer."
            self._refuse(RefusalError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence))

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is not HTTP, or has an unknown method, and close the connection."""
        sentence = "the request is not valid HTTP/1.1; send it by an HTTP client."
        self._refuse(RefusalError(HTTPStatus.BAD_REQUEST, sentence))

    def _refuse(self, refusal: RefusalError) -> None:
        body, status = to_json(body_of(refusal, "openai")), HTTPStatus(refusal.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


async def serve(
    gateway: Gateway, bound: socket.socket, *, drain_seconds: float = Settings.drain_seconds
) -> None:
    """Serve at the address of a socket until SIGTERM or SIGINT; then the socket is closed.

    Args:
        gateway: what answers.
        bound: listens, or is bound.
        drain_seconds: the seconds from the first signal until no connection is taken any more.
    """
    config = uvicorn.Config(
        gateway.app,
        access_log=False,  # it would hold what a caller put into a URL
        log_config=None,
        http=GatewayProtocol,
        ws="none",
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(gateway.limits.deadline_seconds) + 30,
    )
    config.load()
    gc.collect()
    gc.freeze()  # what is loaded stays: looking for garbage in it would stop all requests for 0.1 s
    try:
        await DrainingServer(config, gateway, drain_seconds).serve([bound])
    finally:
        bound.close()
        await gateway.close()
