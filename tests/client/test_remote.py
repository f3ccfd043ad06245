"""A service at any address: its vectors, its health, and nothing left behind by a cancellation.

What is sent and what an answer means is tried in `test_cog_protocol` and
`test_replicate_protocol`.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from fake_cog import Inputs, fake_cog, succeeded
from fake_http import Reply
from fake_replicate import PROCESSING, STARTING, fake_replicate
from remote_calls import INPUTS, embed, eventually, health, with_service

from e5.client import RemoteService
from e5.client.transport import ClientLimits
from e5.data_uris import change_texts, read_data_uri
from e5.errors import InputError, ServiceError

MODEL = "replicate-deployment:you/e5"
QUICK = ClientLimits(first_poll=0.01)


def test_cog_and_replicate_give_the_same() -> None:
    with fake_cog(lambda _, inputs: succeeded(inputs)) as cog, fake_replicate() as api:
        for address in (cog.url, MODEL):
            assert embed(address).vectors.tolist() == [[7, 1, 0, 0]]
            assert health(address) == "READY"
        assert [each.path for each in api.asked][-1] == "/v1/account"
        cog.health = (200, {"status": "BUSY"})
        assert health(cog.url) == "BUSY"
    assert health(cog.url) == ""


def test_it_has_the_name_of_its_address_and_only_cog_reports_its_health() -> None:
    with fake_replicate():
        described = {
            (service.name, service.reports_health)
            for service in map(RemoteService, ("http://127.0.0.1:5000/", MODEL))
        }
    assert described == {("http://127.0.0.1:5000", True), (MODEL, False)}


def test_loopback_is_reached_without_the_environment_s_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def echo(_: int, inputs: Inputs) -> Reply:
        return succeeded(inputs)

    with fake_cog(echo) as proxy, fake_cog(echo) as cog:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(variable, raising=False)
        embed(cog.url)
        assert len(proxy.inputs) == 0
        embed("http://e5.example")  # the proxy answered
        assert (len(proxy.inputs), len(cog.inputs)) == (1, 1)
        for variable in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(variable, "nonsense://proxy")
        with pytest.raises(ServiceError, match="the proxy named in the environment"):
            embed("http://e5.example")


# What cannot be used


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), 1e6, None, "60"])
def test_a_deadline_that_cannot_be_kept_is_refused(deadline: Any) -> None:
    with pytest.raises(InputError, match=r"^deadline: received .*; use seconds up to 86400\.$"):
        RemoteService("http://127.0.0.1", deadline=deadline)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "60"])
def test_a_time_to_retry_that_is_no_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(InputError, match=r"^retry_seconds: received .*; use seconds, 0 for none"):
        RemoteService("http://127.0.0.1", retry_seconds=seconds)


@pytest.mark.parametrize("address", [None, 7, b"http://host", "", "host:5000", "replicate"])
def test_an_address_of_no_kind_is_refused_and_the_remedy_names_each_kind(address: Any) -> None:
    with pytest.raises(InputError) as caught:
        RemoteService(address)
    assert "as in http://127.0.0.1:5000, or replicate:owner/name." in str(caught.value)


# Cancelled


def test_cancelling_cancels_the_prediction_before_the_call_ends() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:

        async def use(service: RemoteService) -> None:
            call = asyncio.create_task(service.embed(INPUTS))
            await eventually(lambda: api.polls)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(api.cancels) == 1

        with_service(MODEL, use, limits=QUICK)
    assert len(api.creates) == 1


def test_a_timeout_cancels_too_and_is_a_timeout() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:

        async def use(service: RemoteService) -> None:
            async def expire() -> None:
                await eventually(lambda: api.polls)
                scope.reschedule(0.0)

            expiring = asyncio.create_task(expire())
            try:
                async with asyncio.timeout(None) as scope:
                    await service.embed(INPUTS)
            except TimeoutError:
                await expiring
            else:
                pytest.fail("it did not time out")

        with_service(MODEL, use, limits=QUICK)
        assert len(api.cancels) == 1


def test_a_framework_that_cancels_again_and_again_does_not_stop_the_request_to_cancel() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api:

        async def use(service: RemoteService) -> None:
            async def cancel() -> None:
                await eventually(lambda: api.polls)
                scope.cancel()

            with anyio.CancelScope() as scope:
                cancelling = asyncio.create_task(cancel())
                await service.embed(INPUTS)
            await cancelling
            assert scope.cancelled_caught

        with_service(MODEL, use, limits=QUICK)
        assert len(api.cancels) == 1


def test_cancelling_a_create_ends_at_once_and_replicate_ends_it_itself() -> None:
    ended = threading.Event()
    gave_up: list[bool] = []

    def slow() -> Iterator[bytes]:
        gave_up.append(not ended.wait(60))
        yield b""

    with fake_replicate([slow()]) as api:

        async def use(service: RemoteService) -> None:
            call = asyncio.create_task(service.embed(INPUTS))
            await eventually(lambda: api.creates)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert not gave_up, "the caller waited for the answer"
            ended.set()

        with_service(MODEL, use)
        assert (len(api.creates), len(api.cancels)) == (1, 0)
        assert api.creates[0].headers["Cancel-After"] == "20s"


def test_cancelling_closes_the_connection_to_cog() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)

        def closed() -> bool:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(60)
                while connection.recv(65536):
                    arrived.set()
                return True

        async def use(service: RemoteService) -> None:
            seen = asyncio.create_task(asyncio.to_thread(closed))
            call = asyncio.create_task(service.embed(INPUTS))
            await eventually(arrived.is_set)
            call.cancel()
            assert await seen

        arrived = threading.Event()
        with_service(f"http://127.0.0.1:{listening.getsockname()[1]}", use)


# For the gateway


def test_many_requests_are_under_way_at_a_time() -> None:
    together = threading.Barrier(50, timeout=60)

    def reply(_: int, inputs: Inputs) -> Reply:
        together.wait()
        return succeeded(inputs)

    async def use(service: RemoteService) -> None:
        found = await asyncio.gather(*(service.embed(INPUTS) for _ in range(50)))
        assert {each.model for each in found} == {"toy@1"}
        assert await service.health() == "READY"

    with fake_cog(reply) as cog:
        with_service(cog.url, use, deadline=60)


@pytest.mark.slow
def test_a_pause_is_not_one_of_the_event_loop() -> None:
    async def use(service: RemoteService) -> int:
        call = asyncio.create_task(service.embed(INPUTS))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    busy: Reply = (429, {"status": "failed"}, {"Retry-After": "1"})
    with fake_cog(lambda number, inputs: succeeded(inputs) if number else busy) as cog:
        assert with_service(cog.url, use) > 5


def test_a_busy_service_is_reported_at_once_where_nobody_waits() -> None:
    async def use(service: RemoteService) -> None:
        with pytest.raises(ServiceError) as caught:
            await service.embed(INPUTS)
        assert (caught.value.cause, caught.value.retry_after) == ("busy", 7)

    with fake_replicate([(429, {"detail": "Your rate limit resets in ~7s."})]) as api:
        with_service(MODEL, use, retry_seconds=0.5)
        assert len(api.creates) == 1


@pytest.mark.parametrize("on_replicate", [False, True])
def test_a_text_that_is_a_data_uri_stays_what_it_is(on_replicate: bool) -> None:
    """Because the service reads what it is sent as a file's, it is sent as the file of itself."""
    uri = "data:text/plain;base64,c25vdw=="
    inputs = {"task": uri, "queries": [uri, "7"], "documents": ["data: the new oil", uri]}
    inputs["encoding_format"] = "base64"
    if on_replicate:
        with fake_replicate() as api:
            embed(MODEL, inputs)
            (sent,) = api.inputs
    else:
        with fake_cog(lambda _, inputs: succeeded(inputs)) as cog:
            embed(cog.url, inputs)
            (sent,) = cog.inputs
    assert change_texts(sent, read_data_uri) == inputs
    assert sent["queries"][1:] + sent["documents"][:1] == ["7", "data: the new oil"]
    assert uri not in str(sent)


def test_a_closed_service_cannot_be_used() -> None:
    async def use(service: RemoteService) -> None:
        await service.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await service.embed(INPUTS)

    with fake_replicate([STARTING], [PROCESSING]) as api:
        with_service(MODEL, use)
        assert api.asked == []
