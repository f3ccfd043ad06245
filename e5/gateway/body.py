"""JSON bodies in and out, of any size, without holding up the event loop.

A large body is parsed by a process of its own, which gives it back only if it holds few values: a
list of sixteen million numbers would stop all other requests for a second. A large answer is
written piece by piece.
"""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from e5.errors import InputError, quoted
from e5.gateway.limits import GatewayLimits
from e5.gateway.parsing import parse_body
from e5.gateway.refusals import RefusalError, busy
from e5.gateway.wire import TOKEN_IDS_REMEDY

HELD = "e5.held_bytes"  # the key in a request's ASGI scope for the size of its body
PIECE_BYTES = 2**16  # after so many bytes of an answer, other requests are served


class BodyParser:
    """Reads the bodies of requests. The first large one starts a process that parses these."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._process: _ParsingProcess | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1)  # waits for the process: one body after the other
        self._held_bytes = 0

    async def read(self, request: Request, *, any_content_type: bool = False) -> dict[str, Any]:
        """The JSON object that a request holds.

        Args:
            request: the caller's, whose body was not read yet.
            any_content_type: whether its Content-Type may say something else than JSON.

        Raises:
            RefusalError: 413 or 415, saying what to send; 429 for too much at a time.
            InputError: for what is not a JSON object, or holds too many values.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", "") and not any_content_type:  # some clients send none
            wrong = InputError("Content-Type", quoted(kind), "send application/json")
            raise RefusalError(415, wrong)
        coding = request.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            wrong = InputError("Content-Encoding", quoted(coding), "send the body as it is")
            raise RefusalError(415, wrong)
        body = await self._received(request)
        is_large = len(body) >= self._limits.large_body_bytes
        if is_large:
            loop = asyncio.get_running_loop()
            parsed = await loop.run_in_executor(self._thread, self._parse_in_process, body)
        else:
            parsed = parse_body(body)
        if not isinstance(parsed, dict):
            raise InputError("the body", quoted(parsed), "send a JSON object")
        return parsed

    def _parse_in_process(self, body: bytes) -> Any:
        for is_last in (False, True):
            if self._process is None:
                self._process = _ParsingProcess(self._limits)
            try:
                return self._process.parse(body)
            except (EOFError, OSError):  # it was killed: a new process parses the body once more
                self._process = None
                if is_last or self._is_closed:
                    raise
        raise AssertionError

    def release(self, request: Request) -> None:
        """Forget the body of a request that is answered."""
        self._held_bytes -= request.scope.pop(HELD, 0)

    async def _received(self, request: Request) -> bytes:
        """The bytes of the body, unless they are too many."""
        most = self._limits.body_bytes
        too_large = InputError("the body", f"more than {most} bytes", "send less in one request")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise RefusalError(413, too_large)
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._held_bytes += len(chunk)
                request.scope[HELD] = len(body)
                if len(body) > most:
                    raise RefusalError(413, too_large)
                if self._held_bytes > self._limits.held_bytes:
                    raise busy("too many large requests at a time; try again in a moment.")
        except ClientDisconnect as error:  # nobody reads this, but it is counted
            raise InputError("the body", "only its beginning", "send all of it") from error
        return bytes(body)

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.end()


class _ParsingProcess:
    """A process that parses one body after the other.

    Its pipe needs no semaphores, which Python's pools of processes make in /dev/shm.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        arguments = child_end, limits
        self._process = context.Process(target=_parse_bodies, args=arguments, daemon=True)
        self._process.start()
        child_end.close()  # so that the connection ends when the process ends

    def parse(self, body: bytes) -> Any:
        """See `parse_large_body`; EOFError or OSError where the process has ended."""
        self._connection.send_bytes(body)
        parsed = self._connection.recv()
        if isinstance(parsed, InputError):
            raise parsed
        return parsed

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()


def _parse_bodies(connection: Connection, limits: GatewayLimits) -> None:
    """Parse one body after the other until the gateway has ended."""
    # Ctrl-C in a terminal reaches this process as well, while requests still need it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            body = connection.recv_bytes()
            try:
                parsed = parse_large_body(body, limits)
            except InputError as error:
                parsed = error
            connection.send(parsed)


def parse_large_body(body: bytes, limits: GatewayLimits) -> Any:
    """The JSON in a body, if it has few enough values to be sent from process to process.

    Raises:
        InputError: for what is not JSON, or has too many values, or too many levels.
    """
    parsed = parse_body(body)
    num_values, to_visit = 0, [(parsed, 0)]
    while to_visit:
        value, depth = to_visit.pop()
        if isinstance(value, list | dict):
            num_values += len(value)
            if num_values > limits.large_body_values:
                received = f"more than {limits.large_body_values} values"
                raise InputError("the body", received, TOKEN_IDS_REMEDY)
            if depth == limits.large_body_depth:
                received = f"more than {depth} lists in each other"
                raise InputError("the body", received, "send a list of texts")
            items = value if isinstance(value, list) else value.values()
            to_visit.extend((item, depth + 1) for item in items)
    return parsed


def to_json(value: Any) -> bytes:
    """JSON of plain values and numpy arrays."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The response whose body is small JSON."""
    return Response(to_json(value), status, headers, "application/json")


async def json_pieces(value: Any) -> AsyncIterator[bytes]:
    """The same JSON in pieces; other requests are served after each."""
    piece = bytearray()
    for part in _parts(value):
        piece += part
        if len(piece) > PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
            await asyncio.sleep(0)
    yield bytes(piece)


def _parts(value: Any) -> Iterator[bytes]:
    """Lists, iterators and objects element by element; arrays and all else whole."""
    if isinstance(value, dict):
        yield b"{"
        for i, (key, item) in enumerate(value.items()):
            yield (b"," if i else b"") + to_json(key) + b":"
            yield from _parts(item)
        yield b"}"
    elif isinstance(value, list | Iterator):
        yield b"["
        for i, item in enumerate(value):
            if i:
                yield b","
            yield from _parts(item)
        yield b"]"
    else:
        yield to_json(value)
