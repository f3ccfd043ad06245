"""The wire between fronts and engines: frames of raw token ids and raw vectors.

A frame is a header (u32 length of the payload, u8 kind, u64 number) and the payload, all in the
machine's own byte order, because both ends run on one machine. Nothing on the wire is code, and
each length is checked before memory is taken for it. Each ASK gets exactly one reply, which
carries its number: ANSWER, ERROR, or CANCEL if the front cancelled the request before that.

    engine -> front       HELLO   what is served, as JSON; the first frame
                          STATE   u8 whether it is healthy, u64 waiting tokens, u64 bytes of its
                                  cache; several a second
                          ANSWER  f64 queue_ms, f64 forward_ms, u32 batch_texts, i32 cached (-1
                                  without a cache), float32 rows
                          ERROR   `E5Error.to_dict` as JSON
    front -> engine       ASK     u32 number of texts, u32 lengths, u32 token ids
    both                  CANCEL  nothing
"""

import asyncio
import json
import logging
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, chain, pairwise
from typing import Annotated, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from e5.errors import E5Error, TextError
from e5.prompts import Prompts
from e5.serving.engine_queue import BatchedVectors
from e5.tokenizer import TokenIds

logger = logging.getLogger(__name__)

HEADER = struct.Struct("=IBQ")
STATE = struct.Struct("=?QQ")
META = struct.Struct("=ddIi")  # of an ANSWER
MAX_JSON_BYTES = 1 << 20  # of a HELLO, whose prompts may be many, and of an ERROR

# A buffer of at least this many bytes is sent as it is, instead of a copy behind its header.
LARGE_BYTES = 1 << 16

Pieces: TypeAlias = Sequence[bytes | memoryview]


class FrameError(Exception):
    """Bytes that are no frame of this wire. The connection that they came by is closed."""


class FrameKind(IntEnum):
    """The kinds of frames."""

    HELLO = 1
    STATE = 2
    ASK = 3
    CANCEL = 4
    ANSWER = 5
    ERROR = 6


class Frame(NamedTuple):
    """One frame: its kind, the number of the request that it is about (else 0), its payload."""

    kind: FrameKind
    number: int
    payload: bytearray


_Count = Annotated[int, Field(ge=1)]


class EngineHello(BaseModel):
    """What an engine serves, and how much it takes.

    Attributes:
        version: the version of these frames.
        name: the model's name with its fingerprint.
        tokenizer_sha256: the checksum of the tokenizer's file; a front must have the same file.
        prompts: the model's prompts.
        dimensions: the number of dimensions of a whole vector.
        max_length: the number of tokens after which texts are truncated.
        max_batch_tokens: the largest number of tokens that are computed in one forward.
        max_queue_tokens: the number of tokens that may wait for this engine.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = 1
    name: str
    tokenizer_sha256: str
    prompts: Prompts
    dimensions: _Count
    max_length: _Count
    max_batch_tokens: _Count
    max_queue_tokens: _Count


@dataclass(frozen=True)
class EngineState:
    """Whether an engine works, the number of tokens that wait for it, the bytes of its cache."""

    healthy: bool
    waiting_tokens: int
    cache_bytes: int = 0


def frame(kind: FrameKind, number: int = 0, *payload: bytes | memoryview) -> Pieces:
    """The bytes of a frame, in pieces that are sent one after another."""
    length = sum(piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in payload)
    head = HEADER.pack(length, kind, number)
    return [b"".join((head, *payload))] if length < LARGE_BYTES else [head, *payload]


def hello_frame(hello: EngineHello) -> Pieces:
    """The first frame that an engine sends."""
    return frame(FrameKind.HELLO, 0, hello.model_dump_json().encode())


def read_hello(payload: bytearray) -> EngineHello:
    """What an engine serves; FrameError where it is of another version, or incomplete."""
    try:
        return EngineHello.model_validate_json(payload)
    except ValidationError as error:
        raise FrameError(f"a HELLO that cannot be read ({error.error_count()} errors)") from None


def state_frame(state: EngineState) -> Pieces:
    """The frame with the state of an engine."""
    return frame(
        FrameKind.STATE, 0, STATE.pack(state.healthy, state.waiting_tokens, state.cache_bytes)
    )


def read_state(payload: bytearray) -> EngineState:
    """The state of an engine; FrameError for a payload of another size."""
    if len(payload) != STATE.size:
        raise FrameError(f"a STATE of {len(payload)} bytes")
    return EngineState(*STATE.unpack(payload))


def ask_frame(number: int, sequences: Sequence[TokenIds]) -> Pieces:
    """The frame that asks for the vectors of these texts."""
    numbers = array("I", [len(sequences), *map(len, sequences)])
    numbers.extend(chain.from_iterable(sequences))
    return frame(FrameKind.ASK, number, memoryview(numbers).cast("B"))


def max_ask_bytes(max_tokens: int) -> int:
    """The size of the largest ASK of `max_tokens` tokens, which are as many texts at most."""
    return 4 * (1 + 2 * max_tokens)


def read_ask(payload: bytearray, *, max_length: int, vocab_size: int) -> list[TokenIds]:
    """The token ids of each text.

    Args:
        payload: the payload of the ASK.
        max_length: the largest number of tokens of a text.
        vocab_size: the number of token ids, from 0 on.

    Raises:
        FrameError: for anything that a front never sends; an engine that computed it could
            fail for all others too.
    """
    if len(payload) % 4:
        raise FrameError(f"an ASK of {len(payload)} bytes")
    numbers = np.frombuffer(payload, np.uint32)
    num_texts = int(numbers[0]) if len(numbers) else 0
    lengths, ids = numbers[1 : 1 + num_texts], numbers[1 + num_texts :]
    if not payload or len(lengths) < num_texts or lengths.sum(dtype=np.uint64) != len(ids):
        raise FrameError(f"an ASK of {len(payload)} bytes for {num_texts} texts")
    if num_texts and not (
        lengths.min() > 0 and lengths.max() <= max_length and ids.max() < vocab_size
    ):
        raise FrameError("an ASK with an empty text, a text too long or an unknown token id")
    all_ids, ends = ids.tolist(), accumulate(lengths.tolist(), initial=0)
    return [tuple(all_ids[start:end]) for start, end in pairwise(ends)]


def answer_frame(number: int, batched: BatchedVectors) -> Pieces:
    """The frame with the vectors of a request."""
    cached = -1 if batched.cached is None else batched.cached
    meta = META.pack(batched.queue_ms, batched.forward_ms, batched.batch_texts, cached)
    rows = np.ascontiguousarray(batched.vectors, np.float32).reshape(-1).view(np.uint8)
    return frame(FrameKind.ANSWER, number, meta, rows.data)


def answer_bytes(num_texts: int, dimensions: int) -> int:
    """The size of the ANSWER to a request of so many texts."""
    return META.size + 4 * num_texts * dimensions


def read_answer(payload: bytearray, num_texts: int, dimensions: int) -> BatchedVectors:
    """The vectors of a request of so many texts."""
    if len(payload) != answer_bytes(num_texts, dimensions):
        raise FrameError(f"an ANSWER of {len(payload)} bytes to {num_texts} texts")
    queue_ms, forward_ms, batch_texts, cached = META.unpack_from(payload)
    vectors = np.frombuffer(payload, np.float32, offset=META.size).reshape(num_texts, dimensions)
    return BatchedVectors(
        vectors, queue_ms, forward_ms, batch_texts, cached if cached >= 0 else None
    )


def error_frame(number: int, error: E5Error) -> Pieces:
    """The frame with the error of a request."""
    return frame(FrameKind.ERROR, number, json.dumps(error.to_dict()).encode())


def read_engine_error(payload: bytearray, num_texts: int) -> E5Error:
    """The error of a request of so many texts; FrameError where it is of an unknown class."""
    try:
        error = E5Error.from_dict(json.loads(payload))
    except (ValueError, RecursionError):
        error = None
    if error is None or (isinstance(error, TextError) and error.position >= num_texts):
        raise FrameError("an ERROR that is none of this project's, or of a text that was not asked")
    return error


class FrameReader:
    """Divides what arrives, in pieces of any size, into frames."""

    def __init__(self, max_bytes: Callable[[FrameKind, int], int]) -> None:
        """`max_bytes` says how long the payload of a frame of a kind and number may be.

        It raises FrameError for a frame that must not come.
        """
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes; FrameError for bytes that are none."""
        self._buffer += data
        start, buffer = 0, self._buffer
        while len(buffer) - start >= HEADER.size:
            length, code, number = HEADER.unpack_from(buffer, start)
            try:
                kind = FrameKind(code)
            except ValueError:
                raise FrameError(f"a frame of the unknown kind {code}") from None
            if length > self._max_bytes(kind, number):
                raise FrameError(f"a frame {kind.name} of {length} bytes, which are too many")
            begin = start + HEADER.size
            if len(buffer) < begin + length:
                break
            start = begin + length
            yield Frame(kind, number, buffer[begin:start])
        del buffer[:start]


class FrameProtocol(asyncio.Protocol):
    """One end of a connection, which is closed at the first bytes that are no frame."""

    transport: asyncio.Transport

    def __init__(self, peer: str) -> None:
        """`peer` is what the log calls the other end."""
        self._peer = peer
        self._reader = FrameReader(self.max_bytes)

    def max_bytes(self, kind: FrameKind, number: int) -> int:
        """See `FrameReader`."""
        raise FrameError(f"a frame {kind.name}, number {number}, which must not come")

    def frame_received(self, frame: Frame) -> None:
        """Take a frame; FrameError if its payload cannot be used."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own

    def data_received(self, data: bytes) -> None:
        """Take the frames that are complete with these bytes."""
        try:
            for received in self._reader.feed(data):
                self.frame_received(received)
        except FrameError as error:
            logger.error("%s sent %s; the connection is closed", self._peer, error)
            self.transport.abort()

    def send(self, pieces: Pieces) -> None:
        """Send a frame, unless the connection is closing."""
        # asyncio's `writelines` never calls `pause_writing` in CPython before 3.12.9 and 3.13.2.
        for piece in pieces:
            if not self.transport.is_closing():
                self.transport.write(piece)
