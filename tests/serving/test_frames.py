"""Whatever goes over the wire comes out as it went in, and what is no frame is refused."""

import asyncio
import json
import logging
import socket
from collections.abc import Sequence

import numpy as np
import pytest
from engine_tools import FRAMES_LOG, LOOPS, run_on
from hypothesis import given
from hypothesis import strategies as st

from e5.errors import (
    ERRORS_BY_NAME,
    E5Error,
    NonFiniteError,
)
from e5.prompts import Prompts
from e5.serving.engine_queue import BatchedVectors
from e5.serving.frames import (
    HEADER,
    LARGE_BYTES,
    EngineHello,
    EngineState,
    Frame,
    FrameError,
    FrameKind,
    FrameProtocol,
    FrameReader,
    Pieces,
    answer_bytes,
    answer_frame,
    ask_frame,
    error_frame,
    frame,
    hello_frame,
    max_ask_bytes,
    read_answer,
    read_ask,
    read_engine_error,
    read_hello,
    read_state,
    state_frame,
)

MAX_LENGTH, VOCAB_SIZE = 20, 1000
HELLO = EngineHello(
    name="small@0123456789ab",
    tokenizer_sha256="0" * 64,
    prompts=Prompts("{task}: {query}", "passage: ", {"law": "Find \ud7ff and é: "}),
    dimensions=192,
    max_length=4096,
    max_batch_tokens=2048,
    max_queue_tokens=1_000_000,
)
TEXTS = st.lists(
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=MAX_LENGTH).map(tuple),
    max_size=8,
)
NUMBERS = st.integers(0, 2**64 - 1)
FRAMES = st.builds(
    lambda kind, number, payload: frame(kind, number, payload),
    st.sampled_from(FrameKind),
    NUMBERS,
    st.binary(max_size=40),
)


def any_size(kind: FrameKind, number: int) -> int:  # noqa: ARG001
    return 1 << 30


def received(pieces: Pieces | bytes) -> Frame:
    """The one frame that these bytes are."""
    [only] = FrameReader(any_size).feed(
        b"".join(pieces) if not isinstance(pieces, bytes) else pieces
    )
    return only


def payload_of(pieces: Pieces) -> bytearray:
    return received(pieces).payload


@given(st.lists(FRAMES, max_size=6), st.data())
def test_frames_are_read_whole_however_the_bytes_are_divided(
    frames: list[Pieces], data: st.DataObject
) -> None:
    stream = b"".join(b"".join(pieces) for pieces in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader(any_size)
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == [received(pieces) for pieces in frames]


@given(st.binary(max_size=60), st.sampled_from(FrameKind), st.lists(st.integers(0, 2**32 - 1)))
def test_bytes_that_are_no_frame_are_refused(
    noise: bytes, kind: FrameKind, numbers: Sequence[int]
) -> None:
    words = np.array(numbers, np.uint32).tobytes()
    for stream in (
        noise,
        HEADER.pack(len(noise), kind, 1) + noise,
        HEADER.pack(len(words), kind, 1) + words,
    ):
        try:
            for each in FrameReader(lambda *_: 1000).feed(stream):
                payload = each.payload
                if each.kind is FrameKind.HELLO:
                    read_hello(payload)
                elif each.kind is FrameKind.STATE:
                    read_state(payload)
                elif each.kind is FrameKind.ASK:
                    for ids in read_ask(payload, max_length=MAX_LENGTH, vocab_size=VOCAB_SIZE):
                        assert 0 < len(ids) <= MAX_LENGTH
                        assert max(ids) < VOCAB_SIZE
                elif each.kind is FrameKind.ANSWER:
                    read_answer(payload, 2, 3)
                elif each.kind is FrameKind.ERROR:
                    read_engine_error(payload, 2)
        except FrameError:
            pass


def test_a_length_is_refused_before_its_bytes_come() -> None:
    limits = {FrameKind.ASK: 12, FrameKind.CANCEL: 0}
    for kind, length in ((FrameKind.ASK, 13), (FrameKind.ASK, 2**32 - 1), (FrameKind.CANCEL, 1)):
        with pytest.raises(FrameError, match=f"{kind.name} of {length} bytes"):
            list(FrameReader(lambda kind, _: limits[kind]).feed(HEADER.pack(length, kind, 5)))
    for code in (0, 7, 255):
        with pytest.raises(FrameError, match=f"unknown kind {code}"):
            list(FrameReader(any_size).feed(HEADER.pack(0, code, 5)))
    assert (
        list(FrameReader(lambda kind, _: limits[kind]).feed(HEADER.pack(12, FrameKind.ASK, 5)))
        == []
    )


@given(TEXTS, NUMBERS)
def test_texts_come_out_as_they_went_in(texts: list[tuple[int, ...]], number: int) -> None:
    got = received(ask_frame(number, texts))
    assert (got.kind, got.number) == (FrameKind.ASK, number)
    assert read_ask(got.payload, max_length=MAX_LENGTH, vocab_size=VOCAB_SIZE) == texts
    assert len(got.payload) <= max_ask_bytes(sum(map(len, texts)))


@pytest.mark.parametrize(
    "words",
    [
        [],
        [1],
        [2, 1, 1],
        [1, 2, 7],
        [1, 1, 7, 7],
        [0, 7],
        [1, 0],
        [2, 2, 0, 7, 8],
        [1, 21, *[7] * 21],
        [1, 1, VOCAB_SIZE],
        [1, 2, 7, 2**32 - 1],
        [2**32 - 1, 7],
        [2, 2**32 - 1, 2, 7],  # the sum of the lengths in 32 bits is right
    ],
)
def test_texts_that_no_front_end_sends_are_refused(words: list[int]) -> None:
    payload = bytearray(np.array(words, np.uint32).tobytes())
    with pytest.raises(FrameError, match="an ASK"):
        read_ask(payload, max_length=MAX_LENGTH, vocab_size=VOCAB_SIZE)
    with pytest.raises(FrameError, match="an ASK"):
        read_ask(payload + b"x", max_length=MAX_LENGTH, vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize(
    ("num_texts", "dimensions", "cached"),
    [(0, 3, None), (1, 1, 0), (3, 7, 2), (2, LARGE_BYTES, None)],
)
def test_vectors_come_out_bit_for_bit(num_texts: int, dimensions: int, cached: int | None) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, (num_texts, dimensions), np.uint32)
    batched = BatchedVectors(bits.view(np.float32), 0.1, 1e300, 2**32 - 1, cached)
    got = received(answer_frame(9, batched))
    assert (got.kind, got.number, len(got.payload)) == (
        *(FrameKind.ANSWER, 9),
        answer_bytes(num_texts, dimensions),
    )
    read = read_answer(got.payload, num_texts, dimensions)
    assert (read.vectors.view(np.uint32) == bits).all()
    assert read.vectors.shape == bits.shape
    assert read.vectors.flags.writeable, "as those of this process are"
    assert (read.queue_ms, read.forward_ms, read.batch_texts) == (0.1, 1e300, 2**32 - 1)
    assert read.cached == cached
    for other in (num_texts + 1, max(0, num_texts - 1)):
        if other != num_texts:
            with pytest.raises(FrameError, match="an ANSWER"):
                read_answer(got.payload, other, dimensions)


def test_vectors_of_any_layout_are_sent_in_their_order() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    for layout in (vectors.T, vectors[::2], vectors[:, 1:3]):
        payload = payload_of(answer_frame(1, BatchedVectors(layout, 0, 0, 1)))
        assert (read_answer(payload, *layout.shape).vectors == layout).all()


@pytest.mark.parametrize("kind", ERRORS_BY_NAME.values(), ids=lambda kind: kind.__name__)
def test_errors_of_every_class_come_out_as_they_went_in(kind: type[E5Error]) -> None:
    values = {"position": 1, "cause": "busy", "retry_after": 2.5}
    error = kind._of({part: values.get(part, f"a {part}") for part in kind.parts})
    read = read_engine_error(payload_of(error_frame(3, error)), 2)
    assert type(read) is kind
    assert read.to_dict() == error.to_dict()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"[" * 100_000,
        json.dumps({"type": "SystemExit", "message": "x"}).encode(),
        json.dumps({"type": "EngineError"}).encode(),
        json.dumps({"type": "EngineError", "message": 3}).encode(),
        json.dumps(NonFiniteError(2).to_dict()).encode(),  # the request had two texts
    ],
)
def test_what_is_no_error_of_ours_is_refused(content: bytes) -> None:
    with pytest.raises(FrameError, match="an ERROR"):
        read_engine_error(bytearray(content), 2)


def test_a_hello_comes_out_as_it_went_in() -> None:
    assert read_hello(payload_of(hello_frame(HELLO))) == HELLO


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"dimensions": 0},
        {"dimensions": 1.5},
        {"name": None},
        {"max_length": "4096"},
        {"prompts": {"template": 3}},
        {"unknown": 1},
    ],
)
def test_a_hello_of_another_wire_is_refused(change: dict[str, object]) -> None:
    content = json.dumps(json.loads(HELLO.model_dump_json()) | change).encode()
    with pytest.raises(FrameError, match="a HELLO"):
        read_hello(bytearray(content))
    for damaged in (content[:-1], b"", b"\xff", b"[" * 100_000):
        with pytest.raises(FrameError, match="a HELLO"):
            read_hello(bytearray(damaged))


def test_a_state_comes_out_as_it_went_in() -> None:
    for state in (EngineState(True, 0, 7), EngineState(False, 2**64 - 1, 0)):
        assert read_state(payload_of(state_frame(state))) == state
    with pytest.raises(FrameError, match="a STATE of 16 bytes"):
        read_state(bytearray(16))


class Listening(FrameProtocol):
    """An end that takes frames STATE."""

    def __init__(self) -> None:
        super().__init__("the other end")
        self.frames: list[Frame] = []
        self.is_lost = asyncio.Event()

    def max_bytes(self, kind: FrameKind, number: int) -> int:
        return 100 if kind is FrameKind.STATE else super().max_bytes(kind, number)

    def frame_received(self, received: Frame) -> None:
        self.frames.append(received)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self.is_lost.set()


@LOOPS
def test_a_connection_takes_frames_until_the_first_bytes_that_are_none(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        ours, theirs = socket.socketpair()
        end = Listening()
        await asyncio.get_running_loop().create_unix_connection(lambda: end, sock=ours)
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        told = [b"".join(state_frame(EngineState(True, number))) for number in range(3)]
        writer.write(told[0] + told[1] + b"".join(frame(FrameKind.HELLO, 7, b"{}")) + told[2])
        await end.is_lost.wait()
        assert [read_state(each.payload).waiting_tokens for each in end.frames] == [0, 1]
        end.send(state_frame(EngineState(True, 3)))  # to nobody
        assert await reader.read() == b""
        writer.close()

    with caplog.at_level(logging.ERROR):
        run_on(loop, story)
    [record] = (record for record in caplog.records if record.name == FRAMES_LOG)
    assert record.getMessage() == (
        "the other end sent a frame HELLO, number 7, which must not come; the connection is closed"
    )


def test_large_payloads_are_not_copied_behind_their_header() -> None:
    large = memoryview(bytes(LARGE_BYTES))
    assert frame(FrameKind.ANSWER, 1, b"meta", large)[-1] is large
    assert len(frame(FrameKind.ANSWER, 1, b"meta", large[:100])) == 1
