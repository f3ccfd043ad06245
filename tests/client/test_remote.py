"""Both ways to run steps do the same, over real sockets; and a cancelled one leaves nothing behind.

What is sent and what an answer means is tried in `test_cog` and `test_replicate`.
"""

import _thread
import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

import anyio
import pytest
from fake_cog import Inputs, fake_cog, succeeded
from fake_http import HALF, Asked, Reply, serve_http
from fake_replicate import PROCESSING, STARTING, FakeReplicate, fake_replicate

from e5.client import wire
from e5.client.cog_protocol import Cog
from e5.client.remote import Remote, RemoteService
from e5.client.replicate_protocol import Replicate
from e5.client.wire import Answer, NoAnswerError, Request, Steps, T
from e5.errors import InputError, ServiceError

INPUTS: Inputs = {"documents": ["7"], "encoding_format": "base64"}
MODEL = "replicate-deployment:you/e5"


class Run(Protocol):
    """Connect, run the steps that a function makes, close."""

    def __call__(
        self, url: str, work: Callable[[Cog | Replicate], Steps[T]], *, deadline: float = 20
    ) -> T: ...


def in_a_thread(
    url: str, work: Callable[[Cog | Replicate], Steps[T]], *, deadline: float = 20
) -> T:
    with closing(Remote(url, deadline=deadline)) as service:
        return service.run(work(service.dialect))


def in_a_loop(url: str, work: Callable[[Cog | Replicate], Steps[T]], *, deadline: float = 20) -> T:
    async def connected() -> T:
        service = RemoteService(url, deadline=deadline)
        try:
            return await service.run(work(service.dialect))
        finally:
            await service.aclose()

    return asyncio.run(connected())


both_ways = pytest.mark.parametrize("run", [in_a_thread, in_a_loop])


def embed(dialect: Cog | Replicate) -> Steps[Any]:
    return dialect.embed(INPUTS)


def ask(path: str = "/", seconds: float = 20, **options: Any) -> Callable[[object], Steps[Answer]]:
    """Steps of one request."""

    def steps(_: object) -> Steps[Answer]:
        return (yield Request("GET", path, time.monotonic() + seconds, **options))

    return steps


def hello(_: Asked) -> Reply:
    return 200, b"hello", {"X-Word": "hi"}


# Both ways


@both_ways
def test_an_answer_comes_back_whole(run: Run) -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return 418, b"hello", {"X-Word": "hi"}

    with serve_http(answer) as url:
        found = run(f"{url}/e5/", ask("/path", headers={"X-Mine": "1"}))
    assert (found.status, found.headers["x-word"], found.body) == (418, "hi", b"hello")
    assert [(each.method, each.path, each.content) for each in asked] == [("GET", "/e5/path", b"")]
    assert asked[0].headers["X-Mine"] == "1"
    assert asked[0].headers["Accept-Encoding"] == "identity"


@both_ways
def test_a_request_waits_before_it_is_sent_and_its_time_is_counted_from_then(run: Run) -> None:
    with serve_http(hello) as url:
        started = time.monotonic()
        assert run(url, ask(after=0.3, silence=0.2)).status == 200
        assert 0.3 <= time.monotonic() - started < 50


@both_ways
def test_steps_may_ask_nothing_or_go_on_after_a_failure(run: Run) -> None:
    def nothing(_: object) -> Steps[str]:
        yield from ()
        return "nothing"

    def anyway(_: object) -> Steps[list[str]]:
        seen: list[str] = []
        for path in ("/half", "/", "/half"):
            try:
                seen.append((yield Request("GET", path, time.monotonic() + 20)).body.decode())
            except NoAnswerError as error:
                seen.append(error.kind)
        return seen

    with serve_http(lambda asked: HALF if asked.path == "/half" else hello(asked)) as url:
        assert run(url, nothing) == "nothing"
        assert run(url, anyway) == ["lost", "hello", "lost"]


@both_ways
def test_each_failure_is_told_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_ANSWER_BYTES", 1000)

    def dripping() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        for _ in range(100):
            time.sleep(0.02)
            yield b" "

    def answer(asked: Asked) -> Reply:
        if asked.path == "/silent":
            time.sleep(0.5)
        replies: dict[str, Reply] = {
            "/drips": dripping(),
            "/silent": b"",
            "/much": (200, b" " * 1001),
            "/ssh": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        }
        return replies[asked.path]

    def kind(url: str, *arguments: Any, **options: Any) -> str:
        with pytest.raises(NoAnswerError) as caught:
            run(url, ask(*arguments, **options))
        return caught.value.kind

    with serve_http(answer) as url:
        assert kind(url, "/drips", 0.2) == "late"
        assert kind(url, "/silent", 0.2) == "late"
        assert kind(url, "/silent", silence=0.2) == "lost"
        assert kind(url, "/much") == "broken"
        assert kind(url, "/ssh") == "broken"
    assert kind(url) == "refused"
    assert kind("http://no-such-host.invalid") == "broken"


@both_ways
def test_cog_and_replicate_give_the_same(run: Run) -> None:
    with fake_cog(lambda _, inputs: succeeded(inputs)) as cog, fake_replicate() as api:
        for address in (cog.url, MODEL):
            assert run(address, embed).vectors.tolist() == [[7, 1, 0, 0]]
            assert run(address, lambda dialect: dialect.health()) == "READY"
        assert [each.path for each in api.asked][-1] == "/v1/account"
        cog.health = (200, {"status": "BUSY"})
        assert run(cog.url, lambda dialect: dialect.health()) == "BUSY"
    assert run(cog.url, lambda dialect: dialect.health()) == ""


@both_ways
def test_loopback_is_reached_without_the_environment_s_proxy(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def echo(_: int, inputs: Inputs) -> Reply:
        return succeeded(inputs)

    with fake_cog(echo) as proxy, fake_cog(echo) as cog:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(variable, raising=False)
        run(cog.url, embed)
        assert len(proxy.inputs) == 0
        run("http://e5.example", embed)  # the proxy answered
        assert (len(proxy.inputs), len(cog.inputs)) == (1, 1)
        for variable in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(variable, "nonsense://proxy")
        with pytest.raises(ServiceError, match="the proxy named in the environment"):
            run("http://e5.example", embed)


# What cannot be used

both_kinds = pytest.mark.parametrize("kind", [Remote, RemoteService])


@both_kinds
@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), 1e6, None, "60"])
def test_a_deadline_that_cannot_be_kept_is_refused(kind: Any, deadline: Any) -> None:
    with pytest.raises(InputError, match=r"^deadline: received .*; use seconds up to 86400\.$"):
        kind("http://127.0.0.1", deadline=deadline)


@both_kinds
@pytest.mark.parametrize("patience", [-1, float("nan"), "60"])
def test_a_patience_that_cannot_be_had_is_refused(kind: Any, patience: Any) -> None:
    with pytest.raises(InputError, match=r"^patience: received .*; use seconds, 0 for none\.$"):
        kind("http://127.0.0.1", deadline=1, patience=patience)


@both_kinds
@pytest.mark.parametrize("address", [None, 7, b"http://host", "", "host:5000", "replicate"])
def test_an_address_that_is_none_is_refused_with_both_kinds_of_them(
    kind: Any, address: Any
) -> None:
    with pytest.raises(InputError) as caught:
        kind(address, deadline=1)
    assert "as in http://127.0.0.1:5000, or replicate:owner/name." in str(caught.value)


# Cancelled


def asyncio_run(
    use: Callable[[RemoteService], Awaitable[T]], address: str = MODEL, **options: Any
) -> T:
    async def connected() -> T:
        service = RemoteService(address, **{"deadline": 20, **options})
        try:
            return await use(service)
        finally:
            await service.aclose()

    return asyncio.run(connected())


async def once(seen: Callable[[], object]) -> None:
    """Wait until it is true."""
    for _ in range(500):
        if seen():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never was")


def test_cancelling_cancels_the_prediction_before_the_call_ends() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:

        async def use(service: RemoteService) -> None:
            call = asyncio.create_task(service.embed(INPUTS))
            await once(lambda: api.polls)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(api.cancels) == 1

        asyncio_run(use)
    assert len(api.creates) == 1


def test_a_timeout_cancels_too_and_is_a_timeout() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:

        async def use(service: RemoteService) -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(service.embed(INPUTS), 1.0)

        asyncio_run(use)
        assert len(api.cancels) == 1


def test_a_framework_that_cancels_again_and_again_does_not_stop_the_farewell() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:

        async def use(service: RemoteService) -> None:
            with anyio.move_on_after(1.0) as scope:
                await service.embed(INPUTS)
            assert scope.cancelled_caught

        asyncio_run(use)
        assert len(api.cancels) == 1


def test_cancelling_a_create_ends_at_once_and_replicate_ends_it_itself() -> None:
    ended = threading.Event()
    gave_up: list[bool] = []

    def slow() -> Iterator[bytes]:
        gave_up.append(not ended.wait(60))
        yield b""

    with fake_replicate([slow()]) as api:

        async def use(service: RemoteService) -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(service.embed(INPUTS), 0.2)
            assert not gave_up, "the caller waited for the answer"
            ended.set()

        asyncio_run(use)
        assert (len(api.creates), len(api.cancels)) == (1, 0)
        assert api.creates[0].headers["Cancel-After"] == "20s"


def test_cancelling_closes_the_connection_to_cog() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)

        def closed() -> bool:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(20)
                while connection.recv(65536):
                    arrived.set()
                return True

        async def use(service: RemoteService) -> None:
            seen = asyncio.create_task(asyncio.to_thread(closed))
            call = asyncio.create_task(service.embed(INPUTS))
            await once(arrived.is_set)
            call.cancel()
            assert await seen

        arrived = threading.Event()
        asyncio_run(use, f"http://127.0.0.1:{listening.getsockname()[1]}")


def test_an_interrupted_thread_cancels_the_prediction() -> None:
    def interrupt(api: FakeReplicate) -> None:
        while not api.polls:
            time.sleep(0.01)
        _thread.interrupt_main()

    with fake_replicate([STARTING], [PROCESSING]) as api:
        threading.Thread(target=interrupt, args=[api]).start()
        with pytest.raises(KeyboardInterrupt):
            in_a_thread(MODEL, embed)
        assert len(api.cancels) == 1


# For the gateway


def test_many_requests_are_under_way_at_a_time() -> None:
    together = threading.Barrier(50, timeout=20)

    def reply(_: int, inputs: Inputs) -> Reply:
        together.wait()
        return succeeded(inputs)

    async def use(service: RemoteService) -> None:
        found = await asyncio.gather(*(service.embed(INPUTS) for _ in range(50)))
        assert {each.model for each in found} == {"toy@1"}
        assert await service.health() == "READY"

    with fake_cog(reply) as cog:
        asyncio_run(use, cog.url)


def test_a_pause_is_not_one_of_the_event_loop() -> None:
    async def use(service: RemoteService) -> int:
        call = asyncio.create_task(service.run(ask(after=0.4)(None)))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    with serve_http(hello) as url:
        assert asyncio_run(use, url) > 10


def test_a_busy_service_is_told_at_once_where_nobody_waits() -> None:
    async def use(service: RemoteService) -> None:
        with pytest.raises(ServiceError) as caught:
            await service.embed(INPUTS)
        assert (caught.value.cause, caught.value.retry_after) == ("busy", 7)

    with fake_replicate([(429, {"detail": "Your rate limit resets in ~7s."})]) as api:
        asyncio_run(use, patience=0.5)
        assert len(api.creates) == 1


def test_a_closed_service_cannot_be_used() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:
        service = Remote(MODEL, deadline=20)
        service.close()
        with pytest.raises(RuntimeError, match="closed"):
            service.run(service.dialect.embed(INPUTS))

        async def use(service: RemoteService) -> None:
            await service.aclose()
            with pytest.raises(RuntimeError, match="closed"):
                await service.embed(INPUTS)

        asyncio_run(use)
        assert api.asked == []
