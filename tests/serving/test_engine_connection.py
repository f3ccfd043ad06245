"""Each reply of an engine reaches who waits for it, and what is no reply ends the connection."""

import asyncio
import json
import logging
import random
from collections.abc import Callable

import pytest
from engine_tools import FRAMES_LOG, LOOPS, FakeEngine, connected, run_on, server_of, serving
from reference import assert_same
from watched import WatchedEngine, run, some_text, until

from e5.errors import EngineError, NonFiniteError, ServiceError
from e5.serving.engine_queue import BatchedVectors
from e5.serving.frames import (
    HEADER,
    STATE,
    EngineState,
    FrameKind,
    answer_frame,
    ask_frame,
    error_frame,
    frame,
    state_frame,
)

CHANCE = random.Random(0)
TEXTS = [some_text(9, CHANCE), some_text(5, CHANCE)]


def answer_of(engine: WatchedEngine, number: int, rows: int = len(TEXTS)) -> bytes:
    batched = BatchedVectors(engine.alone(TEXTS)[:rows], 1, 2, 3)
    return b"".join(answer_frame(number, batched))


UNKNOWN = json.dumps({"type": "SystemExit", "message": "x"}).encode()
# Bytes that no engine sends, as the reply to a request of a number.
BROKEN: dict[str, Callable[[WatchedEngine, int], bytes]] = {
    "a row too few": lambda engine, number: answer_of(engine, number, rows=1),
    "too many bytes": lambda _, number: HEADER.pack(1 << 20, FrameKind.ANSWER, number),
    "to nobody": lambda engine, number: answer_of(engine, number + 1),
    "an unknown class": lambda _, number: b"".join(frame(FrameKind.ERROR, number, UNKNOWN)),
    "a text not asked": lambda _, number: b"".join(error_frame(number, NonFiniteError(2))),
    "a large error": lambda _, number: HEADER.pack(1 << 21, FrameKind.ERROR, number),
    "not given up": lambda _, number: b"".join(frame(FrameKind.CANCEL, number)),
    "a second hello": lambda *_: b"".join(frame(FrameKind.HELLO, 0, b"{}")),
    "a long state": lambda *_: HEADER.pack(STATE.size + 1, FrameKind.STATE, 0),
    "a short state": lambda *_: (
        HEADER.pack(STATE.size - 1, FrameKind.STATE, 0) + bytes(STATE.size - 1)
    ),
    "a request": lambda _, number: b"".join(ask_frame(number, TEXTS)),
    "an unknown kind": lambda _, number: HEADER.pack(0, 77, number),
    "zeros": lambda *_: bytes(50),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_frame_that_is_no_reply_ends_the_connection_and_the_request_goes_to_another_engine(
    engine: WatchedEngine, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        sound = server_of(engine)
        broken = FakeEngine(sound.hello, lambda number: BROKEN[what](engine, number))
        async with serving(broken, sound) as paths, connected(paths) as engines:
            for _ in range(2):  # one of them is the broken one's
                assert_same((await engines.embed(TEXTS)).vectors, engine.alone(TEXTS))
            assert broken.asked

    with caplog.at_level(logging.ERROR):
        run(story)
    found = [record.getMessage() for record in caplog.records if record.name == FRAMES_LOG]
    assert found
    for said in found:
        assert said.startswith("the engine at ")
        assert said.endswith("; the connection is closed")


@LOOPS
def test_the_reply_to_a_cancelled_request_is_dropped(engine: WatchedEngine, loop: str) -> None:
    """The engine may have replied before it heard so; whatever it says, others get theirs."""

    async def story() -> None:
        replies = {
            1: b"",
            2: b"".join(frame(FrameKind.CANCEL, 1)) + answer_of(engine, 2),
            3: b"",
            4: answer_of(engine, 3) + answer_of(engine, 4),
            5: b"",
            6: b"".join(error_frame(5, EngineError("too late."))) + answer_of(engine, 6),
        }
        fake = FakeEngine(server_of(engine).hello, replies.__getitem__)
        async with serving(fake) as paths, connected(paths) as engines:
            [connection] = engines._connections.values()
            tokens = sum(map(len, TEXTS))
            for number in (1, 3, 5):
                task = asyncio.create_task(engines.embed(TEXTS))
                await until(lambda number=number: number in fake.asked)  # type: ignore[misc]
                assert connection.own_tokens == tokens
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert connection.own_tokens == tokens, "until the engine says that it is not"
                await until(lambda number=number: number in fake.given_up)  # type: ignore[misc]
                assert_same((await engines.embed(TEXTS)).vectors, engine.alone(TEXTS))
                assert connection.own_tokens == 0
            assert fake.connections == 1

    run_on(loop, story)


def test_half_an_answer_is_not_used(engine: WatchedEngine) -> None:
    async def story() -> None:
        sound = server_of(engine)
        dying = FakeEngine(sound.hello, lambda number: answer_of(engine, number)[:-1])
        async with serving(dying, sound) as paths, connected(paths) as engines:
            tasks = [asyncio.create_task(engines.embed(TEXTS)) for _ in range(2)]
            await until(lambda: bool(dying.asked) and any(task.done() for task in tasks))
            assert not all(task.done() for task in tasks)
            dying.hang_up()
            for answer in await asyncio.gather(*tasks):
                assert_same(answer.vectors, engine.alone(TEXTS))

    run(story)


def test_all_who_wait_get_an_error_when_the_connection_ends(
    engine: WatchedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        server = server_of(engine)
        async with serving(server) as paths, connected(paths) as engines:
            engine.hold()
            tasks = [asyncio.create_task(engines.embed(TEXTS)) for _ in range(3)]
            await engine.has_started(1)
            await until(lambda: sum(len(each.tasks) for each in server.connections) == 3)
            tasks[2].cancel()
            [connection] = engines._connections.values()
            connection.transport.abort()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in outcomes] == [
                *(ServiceError, ServiceError),
                asyncio.CancelledError,
            ]
            engine.let_go()
            await until(lambda: engines.healthy)  # connected again
            assert_same((await engines.embed(TEXTS)).vectors, engine.alone(TEXTS))

    with caplog.at_level(logging.WARNING):
        run(story)
    assert any("has ended, with 3 requests unanswered" in said for said in caplog.messages)


def test_the_last_state_of_an_engine_counts(
    engine: WatchedEngine,
) -> None:
    async def story() -> None:
        told = [EngineState(True, 7, 9), EngineState(False, 2**40)]
        fake = FakeEngine(
            server_of(engine).hello,
            lambda number: b"".join(state_frame(told[number - 1])) + answer_of(engine, number),
        )
        async with serving(fake) as paths, connected(paths) as engines:
            [connection] = engines._connections.values()
            assert engines.healthy, "an engine listens only once it has passed its self-check"
            for state in told:
                heard = connection.heard
                await engines.embed(TEXTS)
                assert connection.state == state
                assert (engines.healthy, engines.waiting_tokens) == (
                    state.healthy,
                    state.waiting_tokens,
                )
                assert engines.cache_bytes == state.cache_bytes
                assert connection.heard > heard

    run(story)
