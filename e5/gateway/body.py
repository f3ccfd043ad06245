"""JSON bodies in and out, of any size, without holding up the event loop.

A large body is parsed by a process of its own, which gives it back only if it holds few values: a
list of sixteen million numbers would stop everybody else for a second. A large answer is written
piece by piece. Knows nothing of what a body means.
"""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from e5.errors import InputError, quoted
from e5.gateway.fields import TOKENS
from e5.gateway.refusals import RefusalError, busy

MAX_BYTES = 32 * 2**20  # of a request's body
MAX_HELD_BYTES = 8 * MAX_BYTES  # of all bodies whose requests are not answered yet
LARGE_BYTES = 2**18  # parsed elsewhere: what is smaller takes a few milliseconds
MAX_VALUES = 20_000  # in a large body; 2,048 texts with all that may stand beside them are fewer
MAX_DEPTH = 100  # of lists and objects in each other in a large body; pickle's own limit is 1,000
HELD = "e5.held_bytes"  # of a request's scope
PIECE_BYTES = 2**16  # of an answer, before others have their turn


class Parser:
    """Parses bodies; holds a process for large ones from the first of them on."""

    def __init__(self) -> None:
        """No process yet."""
        self._pool: ProcessPoolExecutor | None = None
        self._held_bytes = 0

    async def read(self, request: Request) -> dict[str, Any]:
        """The JSON object that a request holds.

        Raises:
            RefusalError: 400, 413 or 415, saying what to send; 429 for too much at a time.
            InputError: for what is no JSON, or holds too many values.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", ""):  # some clients name none
            raise RefusalError(
                415, f"Content-Type: received {quoted(kind)}; send application/json."
            )
        coding = request.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise RefusalError(
                415, f"Content-Encoding: received {quoted(coding)}; send the body as it is."
            )
        body = await self._received(request)
        parsed = parse(body) if len(body) < LARGE_BYTES else await self._elsewhere(body)
        if not isinstance(parsed, dict):
            raise RefusalError(400, f"the body: received {quoted(parsed)}; send a JSON object.")
        return parsed

    async def _elsewhere(self, body: bytes) -> Any:
        loop = asyncio.get_running_loop()
        for attempt in (1, 2):
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                # Ctrl-C in a terminal goes to it as well, while requests still need it.
                ignore = (signal.SIGINT, signal.SIG_IGN)
                self._pool = ProcessPoolExecutor(1, context, signal.signal, ignore)
            pool = self._pool
            try:
                return await loop.run_in_executor(pool, parse_large, body)
            except BrokenProcessPool:  # somebody killed it: once more with a new one
                if self._pool is pool:  # no other request has made one
                    self._pool = None
                if attempt == 2:
                    raise
        raise AssertionError

    def release(self, request: Request) -> None:
        """Forget the body of a request that is answered."""
        self._held_bytes -= request.scope.pop(HELD, 0)

    async def _received(self, request: Request) -> bytes:
        """The body, as far as it is not too large."""
        refusal = RefusalError(413, f"the body has more than {MAX_BYTES} bytes; send less in one.")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BYTES:
            raise refusal
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._held_bytes += len(chunk)
                request.scope[HELD] = len(body)
                if len(body) > MAX_BYTES:
                    raise refusal
                if self._held_bytes > MAX_HELD_BYTES:
                    raise busy("too many large requests at a time; try again in a moment.", 1)
        except ClientDisconnect as error:  # nobody reads this, but it is counted
            sentence = "the body: received only its beginning; send all of it."
            raise RefusalError(400, sentence) from error
        return bytes(body)

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def parse(body: bytes) -> Any:
    """The JSON in a body.

    Raises:
        InputError: for what is no JSON.

    Example:
        >>> parse(b'{"input": "snow"}')
        {'input': 'snow'}
    """
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise InputError("the body", f"what is not JSON ({error})", "send JSON") from error


def parse_large(body: bytes) -> Any:
    """The same, for a process that has to give back what it parsed.

    Raises:
        InputError: for what is no JSON, more than `MAX_VALUES` values, or `MAX_DEPTH` levels.
    """
    parsed = parse(body)
    left, waiting = MAX_VALUES, [(parsed, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, list | dict):
            left -= len(value)
            if left < 0:
                raise InputError("the body", f"more than {MAX_VALUES} values", TOKENS)
            if depth == MAX_DEPTH:
                received = f"more than {MAX_DEPTH} lists in each other"
                raise InputError("the body", received, "send a list of texts")
            items = value if isinstance(value, list) else value.values()
            waiting.extend((item, depth + 1) for item in items)
    return parsed


async def written(value: Any) -> AsyncIterator[bytes]:
    """JSON in pieces, with a turn for everybody else after each."""
    piece = bytearray()
    for part in _parts(value):
        piece += part
        if len(piece) > PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
            await asyncio.sleep(0)
    yield bytes(piece)


def dumps(value: Any) -> bytes:
    """JSON of plain values and numpy arrays."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _parts(value: Any) -> Iterator[bytes]:
    """Lists and objects element by element; arrays and all else whole."""
    if isinstance(value, dict):
        yield b"{"
        for i, (key, item) in enumerate(value.items()):
            yield (b"," if i else b"") + dumps(key) + b":"
            yield from _parts(item)
        yield b"}"
    elif isinstance(value, list):
        yield b"["
        for i, item in enumerate(value):
            if i:
                yield b","
            yield from _parts(item)
        yield b"]"
    else:
        yield dumps(value)
