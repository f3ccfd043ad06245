"""An engine answers every front, and none can cost another one its work."""

import asyncio
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_tools import FRAMES_LOG, LOOPS, RawFront, private_folder, run_on, server_of, serving
from reference import assert_same
from server import ROOT
from watched import WatchedEngine, run, some_text, until

from e5.embedder import Embedder
from e5.errors import FileError, NonFiniteError, QueueFullError
from e5.serving.engine_queue import ENGINE_FAILED, BatchedVectors
from e5.serving.engine_server import REFUSED_TO_START
from e5.serving.frames import (
    HEADER,
    EngineState,
    Frame,
    FrameKind,
    ask_frame,
    frame,
    read_answer,
    read_engine_error,
    read_hello,
    read_state,
    state_frame,
)
from e5.vectors import Vectors


def vectors_of(reply: Frame | None, num_texts: int, engine: WatchedEngine) -> Vectors:
    assert reply is not None
    assert reply.kind is FrameKind.ANSWER
    return read_answer(reply.payload, num_texts, engine.embedder.dimensions).vectors


def test_it_sends_what_it_serves_and_then_its_state(engine: WatchedEngine) -> None:
    async def story() -> None:
        server = server_of(engine, max_queue_tokens=500)
        async with serving(server) as [path]:
            reader, writer = await asyncio.open_unix_connection(path)
            length, kind, number = HEADER.unpack(await reader.readexactly(HEADER.size))
            assert (kind, number) == (FrameKind.HELLO, 0)
            hello = read_hello(bytearray(await reader.readexactly(length)))
            tokenizer = engine.embedder.prompt_tokenizer.tokenizer
            assert hello == server.hello
            assert (hello.name, hello.dimensions) == ("watched", engine.embedder.dimensions)
            assert (hello.max_length, hello.max_queue_tokens) == (tokenizer.max_length, 500)
            assert hello.tokenizer_sha256 == tokenizer.sha256
            engine.hold()
            first = asyncio.create_task(server.queue.embed([(1, 2)]))
            await engine.has_started(1)
            second = asyncio.create_task(server.queue.embed([(1, 7, 2)] * 9))
            waiting = 0
            while waiting != 27:  # again and again
                length, kind, number = HEADER.unpack(await reader.readexactly(HEADER.size))
                assert (kind, number) == (FrameKind.STATE, 0)
                state = read_state(bytearray(await reader.readexactly(length)))
                assert state.healthy
                waiting = state.waiting_tokens
            engine.let_go()
            await asyncio.gather(first, second)
            writer.close()

    run(story)


@LOOPS
def test_each_request_gets_its_own_vectors_or_its_own_error(poisoned: Embedder, loop: str) -> None:
    engine, chance = WatchedEngine(poisoned), random.Random(1)
    requests = [[some_text(chance.randint(3, 40), chance)] * chance.randint(1, 3) for _ in range(9)]
    bad = [some_text(5, chance), (1, 31_999, 2)]

    async def story() -> None:
        async with serving(server_of(engine, max_queue_tokens=600)) as [path]:
            front, other = await RawFront.connect(path), await RawFront.connect(path)
            for number, texts in enumerate(requests):
                (front, other)[number % 2].send(ask_frame(number, texts))
            for each in (front, other):
                each.send(ask_frame(100, bad))
                each.send(ask_frame(101, []))
            replies = {}
            for number in range(len(requests) + 4):
                reply = await (front, other)[number % 2].read()
                assert reply is not None
                replies[number % 2, reply.number] = reply
            for number, texts in enumerate(requests):
                found = vectors_of(replies[number % 2, number], len(texts), engine)
                assert_same(found, engine.alone(texts))
            for side in range(2):
                error = read_engine_error(replies[side, 100].payload, len(bad))
                assert isinstance(error, NonFiniteError)
                assert error.position == 1
                assert not vectors_of(replies[side, 101], 0, engine).size
            await front.close()
            await other.close()

    run_on(loop, story)


def test_a_full_queue_is_the_engines_own_error(engine: WatchedEngine) -> None:
    async def story() -> None:
        async with serving(server_of(engine, max_queue_tokens=100)) as [path]:
            front = await RawFront.connect(path)
            engine.hold()
            chance = random.Random(2)
            front.send(ask_frame(1, [some_text(90, chance)]))
            await engine.has_started(1)
            for number in (2, 3):
                front.send(ask_frame(number, [some_text(60, chance)]))
            refused = await front.read()
            assert refused is not None
            assert (refused.kind, refused.number) == (FrameKind.ERROR, 3)
            error = read_engine_error(refused.payload, 1)
            assert isinstance(error, QueueFullError)
            assert "60 tokens wait, 60 more would pass the limit of 100" in str(error)
            engine.let_go()
            assert [getattr(await front.read(), "number", None) for _ in range(2)] == [1, 2]
            await front.close()

    run(story)


def test_a_mistake_in_the_queue_is_an_error_that_does_not_quote_it(
    engine: WatchedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(sequences: object) -> BatchedVectors:  # noqa: ARG001
        raise RuntimeError("secret")

    async def story() -> None:
        server = server_of(engine)
        server.queue.embed = fail  # type: ignore[method-assign]
        async with serving(server) as [path]:
            front = await RawFront.connect(path)
            front.send(ask_frame(1, [(1, 2)]))
            reply = await front.read()
            assert reply is not None
            assert str(read_engine_error(reply.payload, 1)) == ENGINE_FAILED
            await front.close()

    with caplog.at_level(logging.ERROR):
        run(story)
    assert "secret" in caplog.text


def words(*numbers: int) -> bytes:
    return np.array(numbers, np.uint32).tobytes()


BROKEN = {
    "an unknown kind": HEADER.pack(0, 9, 1),
    "more than the queue can hold": HEADER.pack(1 << 31, FrameKind.ASK, 1),
    "a frame of the other side": b"".join(state_frame(EngineState(True, 0))),
    "an answer": HEADER.pack(0, FrameKind.ANSWER, 1),
    "an empty text": HEADER.pack(8, FrameKind.ASK, 1) + words(1, 0),
    "a token that there is not": HEADER.pack(12, FrameKind.ASK, 1) + words(1, 1, 1 << 31),
    "fewer ids than said": HEADER.pack(12, FrameKind.ASK, 1) + words(1, 2, 7),
    "half a number": HEADER.pack(7, FrameKind.ASK, 1) + words(1, 2)[:7],
    "a number that is in use": b"".join(
        (*ask_frame(1, [(1, 2)]), *ask_frame(1, [(1, 2)])),
    ),
    "a payload where there is none": HEADER.pack(1, FrameKind.CANCEL, 1),
    "HTTP": b"GET / HTTP/1.1\r\nhost: engine\r\n\r\n",
    "zeros": bytes(100),
}


@LOOPS
def test_bytes_that_are_no_frame_end_their_connection_and_no_other(
    engine: WatchedEngine, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    chance = random.Random(3)
    texts = [some_text(12, chance), some_text(7, chance)]
    noise = [chance.randbytes(chance.randint(13, 300)) for _ in range(60)]

    async def story() -> None:
        async with serving(server_of(engine, max_queue_tokens=10_000)) as [path]:
            good = await RawFront.connect(path)
            engine.hold()
            good.send(ask_frame(7, texts))
            await engine.has_started(1)
            for bad in (*BROKEN.values(), *noise):
                front = await RawFront.connect(path)
                front.send(bad)
                # A length within the limits, with fewer bytes: it would wait for the rest.
                front.writer.write_eof()
                assert await front.read() is None
                await front.close()
            engine.let_go()
            assert_same(vectors_of(await good.read(), len(texts), engine), engine.alone(texts))
            good.send(ask_frame(8, texts[:1]))
            assert_same(vectors_of(await good.read(), 1, engine), engine.alone(texts[:1]))
            await good.close()

    with caplog.at_level(logging.ERROR):
        run_on(loop, story)
    said = [record.getMessage() for record in caplog.records if record.name == FRAMES_LOG]
    assert len(said) >= len(BROKEN) + len(noise) // 2
    assert all(
        each.startswith("a front sent a") and each.endswith("; the connection is closed")
        for each in said
    )


@LOOPS
def test_a_cancelled_request_leaves_the_queue_and_is_confirmed(
    engine: WatchedEngine, loop: str
) -> None:
    chance = random.Random(4)
    first, dropped, last = ([some_text(10, chance)] for _ in range(3))

    async def story() -> None:
        async with serving(server_of(engine, max_queue_tokens=25)) as [path]:
            front, other = await RawFront.connect(path), await RawFront.connect(path)
            engine.hold()
            other.send(ask_frame(1, first))
            await engine.has_started(1)
            front.send(frame(FrameKind.CANCEL, 5))  # of nothing: its reply may be on the way
            front.send(ask_frame(2, dropped * 2), frame(FrameKind.CANCEL, 2))  # before it has begun
            assert await front.read() == Frame(FrameKind.CANCEL, 2, bytearray())
            front.send(ask_frame(3, dropped * 2))
            front.send(frame(FrameKind.CANCEL, 3))
            assert await front.read() == Frame(FrameKind.CANCEL, 3, bytearray())
            front.send(ask_frame(3, last))  # the number is free, and there is room
            other.send(frame(FrameKind.CANCEL, 3))  # another front's numbers are its own
            engine.let_go()
            assert_same(vectors_of(await other.read(), 1, engine), engine.alone(first))
            assert_same(vectors_of(await front.read(), 1, engine), engine.alone(last))
            await front.close()
            await other.close()

    run_on(loop, story)
    assert engine.forwards[:2] == [first, last]


@LOOPS
def test_a_front_that_hangs_up_cancels_its_requests(engine: WatchedEngine, loop: str) -> None:
    chance = random.Random(5)
    first, dropped, last = ([some_text(10, chance)] for _ in range(3))

    async def story() -> None:
        server = server_of(engine)
        async with serving(server) as [path]:
            front, other = await RawFront.connect(path), await RawFront.connect(path)
            engine.hold()
            other.send(ask_frame(1, first))
            await engine.has_started(1)
            front.send(ask_frame(2, dropped))
            await until(lambda: server.queue.waiting_tokens == 10)
            await front.close()
            await until(lambda: server.queue.waiting_tokens == 0)
            other.send(ask_frame(2, last))
            engine.let_go()
            assert [getattr(await other.read(), "kind", None) for _ in range(2)] == [
                FrameKind.ANSWER
            ] * 2
            await other.close()

    run_on(loop, story)
    assert engine.forwards[:2] == [first, last]


@LOOPS
def test_a_front_that_reads_no_answers_is_not_read_and_delays_no_other(
    engine: WatchedEngine, loop: str
) -> None:
    chance = random.Random(6)
    text = [some_text(3, chance)]
    many = text * 500  # an answer of hundreds of kilobytes

    async def story() -> None:
        server = server_of(engine, max_unread_bytes=1)
        async with serving(server) as [path]:
            stopped, other = await RawFront.connect(path), await RawFront.connect(path)
            for number in range(5):
                stopped.send(ask_frame(number, many))
            await until(lambda: any(each.is_unread for each in server.connections))
            stopped.send(ask_frame(9, text))
            other.send(ask_frame(1, text))
            assert_same(vectors_of(await other.read(), 1, engine), engine.alone(text))
            [unread] = (each for each in server.connections if each.is_unread)
            assert 9 not in unread.tasks
            for _ in range(5):  # it goes on where it had stopped
                assert len(vectors_of(await stopped.read(), len(many), engine)) == len(many)
            assert_same(vectors_of(await stopped.read(), 1, engine), engine.alone(text))
            await stopped.close()
            await other.close()

    run_on(loop, story)


@LOOPS
def test_an_engine_that_ends_answers_what_it_took_and_nothing_that_comes_later(
    engine: WatchedEngine, loop: str
) -> None:
    chance = random.Random(7)
    texts = [[some_text(9, chance)] for _ in range(3)]

    async def story() -> None:
        server = server_of(engine)
        with private_folder() as folder:
            path = folder / "engine"
            await server.start(path)
            front, idle = await RawFront.connect(path), await RawFront.connect(path)
            engine.hold()
            front.send(ask_frame(1, texts[0]))
            await engine.has_started(1)
            front.send(ask_frame(2, texts[1]))
            await until(lambda: server.queue.waiting_tokens == 9)
            stopping = asyncio.create_task(server.stop())
            told = await front.read()
            assert told is not None
            assert not read_state(told.payload).healthy
            front.send(ask_frame(3, texts[2]))
            with pytest.raises(OSError, match=r"refused|No such file"):
                await asyncio.open_unix_connection(path)
            assert not stopping.done()
            engine.let_go()
            for number in (1, 2):
                reply = await front.read()
                assert reply is not None
                assert reply.number == number
                assert_same(vectors_of(reply, 1, engine), engine.alone(texts[number - 1]))
            assert await front.read() is None
            await front.close()
            assert await idle.read() is not None  # that it ends
            assert await idle.read() is None
            await idle.close()
            await stopping
            assert not path.exists()

    run_on(loop, story)
    assert texts[2] not in engine.forwards


def test_a_front_that_is_stopped_does_not_keep_an_engine_from_ending(engine: WatchedEngine) -> None:
    async def story() -> None:
        server = server_of(engine, last_answers_seconds=0.05)
        with private_folder() as folder:
            await server.start(folder / "engine")
            front = await RawFront.connect(folder / "engine")
            await server.stop()  # the front neither reads nor hangs up
            await until(lambda: not server.connections)
            await front.close()

    run(story)


def test_a_socket_is_made_in_a_private_folder_only(engine: WatchedEngine) -> None:
    async def refusal(path: Path) -> str:
        with pytest.raises(FileError) as raised:
            await server_of(engine).start(path)
        return str(raised.value)

    async def story() -> None:
        with private_folder() as folder:
            (folder / "open").mkdir(mode=0o755)
            assert "has the mode 755; make it private" in await refusal(folder / "open" / "engine")
            assert "no socket can be made there" in await refusal(folder / "none" / "engine")
            assert "no socket can be made there" in await refusal(folder / ("n" * 120))
            stale = folder / "engine"
            for _ in range(2):  # what an engine that was killed left is replaced
                server = server_of(engine)
                await server.start(stale)
                await server.stop()
                os.mknod(stale, 0o600 | 0o140000)

    run(story)


@pytest.mark.slow
def test_a_process_that_cannot_begin_says_why() -> None:
    command = [sys.executable, "-m", "e5.serving.engine_server", "--socket", "/nowhere/engine"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"E5_THREADS": "some"},
        stdin=subprocess.PIPE,  # open as long as it runs
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait() == REFUSED_TO_START
    assert "E5_THREADS: received 'some'" in said.splitlines()[-1]
    assert "Traceback" not in said
