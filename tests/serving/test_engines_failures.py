"""An engine that ends, hangs or differs costs nobody an answer that another engine can give."""

import asyncio
import logging
import random
from typing import Any

import pytest
from engine_tools import (
    LOOPS,
    FakeEngine,
    connected,
    private_folder,
    run_on,
    server_of,
    serving,
)
from reference import assert_same
from watched import WatchedEngine, run, some_text, until

from e5.embedder import Embedder
from e5.errors import (
    EngineError,
    ServiceError,
)
from e5.serving.engine_queue import BatchedVectors
from e5.serving.engine_server import EngineServer
from e5.serving.engines import Engines
from e5.serving.frames import EngineState, answer_frame, state_frame
from e5.tokenizer import TokenIds
from e5.vectors import Vectors


@LOOPS
def test_what_an_engine_did_not_answer_goes_to_another_once(sound: Embedder, loop: str) -> None:
    chance, both = random.Random(5), [WatchedEngine(sound) for _ in range(2)]
    requests = [[some_text(chance.randint(3, 50), chance)] * 2 for _ in range(30)]

    async def story() -> None:
        servers = [server_of(engine) for engine in both]
        async with serving(*servers) as paths, connected(paths) as engines:
            both[0].hold()
            tasks = [asyncio.create_task(engines.embed(texts)) for texts in requests]
            await both[0].has_started(1)
            for connection in list(servers[0].connections):
                connection.transport.abort()  # as the system does for a process that ends
            for texts, answer in zip(requests, await asyncio.gather(*tasks), strict=True):
                assert_same(answer.vectors, both[1].alone(texts))
            both[0].let_go()
            await until(lambda: len(engines._connections) == 2)

    run_on(loop, story)


def test_a_request_that_ends_engines_ends_two_at_most(sound: Embedder) -> None:
    async def story() -> None:
        ended: list[EngineServer] = []

        def deadly() -> EngineServer:
            server = server_of(WatchedEngine(sound))

            async def end(_: object) -> Any:
                ended.append(server)
                for connection in list(server.connections):
                    connection.transport.abort()
                await asyncio.Event().wait()

            server.queue.embed = end  # type: ignore[assignment,method-assign]
            return server

        async with serving(deadly(), deadly(), deadly()) as paths, connected(paths) as engines:
            with pytest.raises(EngineError, match="two engines ended while they computed this"):
                await engines.embed([(1, 2)])
            assert len({*ended}) == len(ended) == 2
        async with serving(deadly()) as paths, connected(paths) as engines:
            with pytest.raises(ServiceError, match="no engine can compute now") as raised:
                await engines.embed([(1, 2)])
            assert raised.value.cause == "unreachable"
            assert len(ended) == 3

    run(story)


@LOOPS
def test_an_engine_that_ends_well_loses_nothing(sound: Embedder, loop: str) -> None:
    chance, both = random.Random(6), [WatchedEngine(sound) for _ in range(2)]
    requests = [[some_text(chance.randint(3, 50), chance)] for _ in range(60)]

    async def story() -> None:
        servers = [server_of(engine) for engine in both]
        async with serving(*servers) as paths, connected(paths) as engines:

            async def ask(texts: list[TokenIds]) -> Vectors:
                await asyncio.sleep(chance.random() / 10)
                return (await engines.embed(texts)).vectors

            tasks = [asyncio.create_task(ask(texts)) for texts in requests]
            await both[0].has_started(1)
            await servers[0].stop()
            computed = len(both[0].forwards)
            for texts, vectors in zip(requests, await asyncio.gather(*tasks), strict=True):
                assert_same(vectors, both[1].alone(texts))
            assert engines.healthy
            assert len(both[0].forwards) == computed

    run_on(loop, story)


def test_without_an_engine_nothing_is_healthy_and_nobody_waits(engine: WatchedEngine) -> None:
    async def story() -> None:
        server = server_of(engine)
        with private_folder() as folder:
            await server.start(folder / "engine")
            engines = await Engines.connect([folder / "engine", folder / "never"])
            assert engines.healthy
            await server.stop()
            await until(lambda: not engines.healthy)
            for attempt in (engines.embed([(1, 2)]), asyncio.to_thread(engines.check_capacity, 1)):
                with pytest.raises(ServiceError, match="no engine can compute now"):
                    await attempt
            assert (engines.waiting_tokens, engines.max_queue_tokens) == (0, 2_000_000)
            server = server_of(engine)  # another process at the same path
            await server.start(folder / "engine")
            await until(lambda: engines.healthy)
            assert len((await engines.embed([(1, 7, 2)])).vectors) == 1
            await engines.close()
            with pytest.raises(ServiceError):
                await engines.embed([(1, 2)])
            await server.stop()

    run(story)


def test_an_engine_that_is_silent_or_has_failed_is_asked_last(sound: Embedder) -> None:
    engine = WatchedEngine(sound)
    texts = [(1, 7, 2)]
    truth = engine.alone(texts)

    async def story() -> None:
        def reply(number: int) -> bytes:
            return b"".join(answer_frame(number, BatchedVectors(truth, 1, 1, 1)))

        unwell = b"".join(state_frame(EngineState(healthy=False, waiting_tokens=0)))
        server = server_of(engine)
        silent = FakeEngine(server.hello, reply)
        failed = FakeEngine(server.hello, lambda number: unwell + reply(number))
        async with (
            serving(silent, failed, server) as paths,
            connected(paths, silent_seconds=0.6) as engines,
        ):
            for _ in range(3):  # one each
                await engines.embed(texts)
            others = [engines._connections[path] for path in paths[:2]]
            await until(lambda: not any(map(engines._is_healthy, others)))
            for _ in range(5):
                assert_same((await engines.embed(texts)).vectors, truth)
            assert len(silent.asked) == len(failed.asked) == 1
            assert engines.healthy
            await server.stop()
            await until(lambda: len(engines._connections) == 2)
            assert not engines.healthy
            for _ in range(2):  # as in one process, which still may answer
                assert_same((await engines.embed(texts)).vectors, truth)
            assert len(silent.asked) + len(failed.asked) == 4

    run(story)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "other@1"}, "name (it serves other@1, and the first engine watched)"),
        ({"tokenizer_sha256": "1", "max_length": 7}, "max_length, tokenizer_sha256"),
        ({"max_queue_tokens": 3}, "max_queue_tokens"),
    ],
)
def test_an_engine_whose_answers_would_differ_is_refused(
    engine: WatchedEngine, change: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        first = server_of(engine)
        other = FakeEngine(first.hello.model_copy(update=change), lambda _: b"")
        async with serving(first, other) as paths:
            engines = await Engines.connect(paths[:1])
            await engines.close()
            engines = Engines(paths)
            engines._hello.set_result(first.hello)
            await until(lambda: other.connections > 0 and engines.healthy)
            for _ in range(4):
                await engines.embed([(1, 7, 2)])
            assert not other.asked
            await engines.close()

    with caplog.at_level(logging.ERROR):
        run(story)
    wanted = f"sent a HELLO that differs in {said}"
    assert any(wanted in message for message in caplog.messages)
