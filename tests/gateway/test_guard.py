"""Who hangs up is computed no further, and what is held for others has a bound."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from gateway_tools import FakeBackend, LocalGateway, sentence_of

from e5.gateway.limits import GatewayLimits
from e5.serving import Answer, EmbedRequest

BODY = b'{"input": "snow"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"17")]


class Caller:
    """One HTTP request as a server hands it to an application; the caller may hang up."""

    def __init__(self) -> None:
        """Nothing sent yet."""
        self.is_gone = asyncio.Event()
        self.answered: list[dict[str, Any]] = []
        self._has_sent = False

    async def receive(self) -> dict[str, Any]:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": BODY, "more_body": False}
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.answered.append(message)

    async def ask(self, local: LocalGateway) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/embeddings",
            "raw_path": b"/v1/embeddings",
            "query_string": b"",
            "headers": HEADERS,
        }
        await local.gateway.app(scope, self.receive, self.send)


class Slow:
    """An outcome that ends only by being cancelled."""

    def __init__(self) -> None:
        """Not asked yet."""
        self.has_begun = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, _: EmbedRequest) -> Answer:
        self.has_begun.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        raise AssertionError


def test_a_request_is_given_up_when_its_caller_hangs_up() -> None:
    async def story() -> tuple[LocalGateway, bool]:
        slow, caller = Slow(), Caller()
        local = LocalGateway(FakeBackend(outcome=slow))
        asking = asyncio.create_task(caller.ask(local))
        await asyncio.wait_for(slow.has_begun.wait(), 60)
        caller.is_gone.set()
        await asyncio.wait_for(asking, 60)
        return local, slow.was_cancelled

    local, was_cancelled = asyncio.run(story())
    assert was_cancelled
    assert local.counted("in_flight") == 0
    assert local.counted("requests_total", route="/v1/embeddings", status="400") == 1


def test_a_caller_who_stays_is_answered() -> None:
    async def story() -> list[dict[str, Any]]:
        caller = Caller()
        await caller.ask(LocalGateway(FakeBackend()))
        return caller.answered

    assert asyncio.run(story())[0]["status"] == 200


def test_a_cancellation_from_elsewhere_goes_on() -> None:
    async def story() -> None:
        slow, caller = Slow(), Caller()
        asking = asyncio.create_task(caller.ask(LocalGateway(FakeBackend(outcome=slow))))
        await asyncio.wait_for(slow.has_begun.wait(), 60)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert slow.was_cancelled

    asyncio.run(story())


def test_what_takes_too_long_is_504() -> None:
    limits = GatewayLimits(deadline_seconds=0.05)

    async def story() -> tuple[httpx2.Response, bool]:
        slow = Slow()
        async with LocalGateway(FakeBackend(outcome=slow), limits=limits).client() as client:
            response = await client.post("/v1/embeddings", json={"input": "snow"})
        return response, slow.was_cancelled

    response, was_cancelled = asyncio.run(story())
    assert sentence_of(response, 504).startswith("no answer within 0.05 s")
    assert was_cancelled


def test_bodies_together_have_a_bound_and_are_forgotten() -> None:
    async def drip(is_first_in: asyncio.Event, may_end: asyncio.Event) -> AsyncIterator[bytes]:
        yield b'{"input": "' + 2000 * b"a"
        is_first_in.set()
        await may_end.wait()
        yield b'"}'

    async def story() -> None:
        local = LocalGateway(FakeBackend(), limits=GatewayLimits(held_bytes=3000))
        headers = {"content-type": "application/json"}
        is_first_in, may_end = asyncio.Event(), asyncio.Event()
        async with local.client() as client:

            async def send(content: Any) -> httpx2.Response:
                return await client.post("/v1/embeddings", content=content, headers=headers)

            large = b'{"input": "' + 2000 * b"b" + b'"}'
            first = asyncio.create_task(send(drip(is_first_in, may_end)))
            await asyncio.wait_for(is_first_in.wait(), 60)
            refused = await send(large)
            may_end.set()
            assert "too many large requests at a time" in sentence_of(refused, 429)
            assert refused.headers["retry-after"] == "1"
            assert (await first).status_code == 200
            assert (await send(large)).status_code == 200

    asyncio.run(story())
