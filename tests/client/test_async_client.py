"""`AsyncClient` gives what `Client` and `Embedder` give, and leaves the event loop to others.

The truth is an `Embedder` on the same checkpoint. Where the service must misbehave, a small HTTP
server does what the test says.
"""

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from fake_cog import (
    BEFORE_THE_FIRST,
    Inputs,
    failing_but_first_last,
    fake_cog,
    succeeded,
)
from fake_http import Reply
from fake_replicate import PROCESSING, STARTING, fake_replicate
from remote_calls import eventually
from server import ROOT

import e5
from e5.client import AsyncClient, Client
from e5.client.async_client import REQUESTS_PER_CALL, REQUESTS_PER_CLIENT
from e5.client.batch import REQUEST_TEXTS
from e5.embedder import Embedder
from e5.encoder import Encoder
from e5.errors import E5Error, InputError, ServiceError
from e5.vectors import Vectors

T = TypeVar("T")

TEXTS = ["x", "</s> <s> {task}", "nul \x00 bell \x07", "snow" * 50, "\N{GRINNING FACE}"]


def run(url: str, use: Callable[[AsyncClient], Awaitable[T]], *, deadline: float = 20) -> T:
    """What comes of it in an event loop; the client is made outside."""
    client = AsyncClient(url, deadline=deadline)

    async def connected() -> T:
        async with client:
            return await use(client)

    return asyncio.run(connected())


def assert_same(vectors: Vectors, truth: Vectors) -> None:
    assert vectors.shape == truth.shape
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, truth, rtol=1e-4, atol=1e-4 * np.abs(truth).max(initial=0))


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def echo(_: int, inputs: Inputs) -> Reply:
    return succeeded(inputs)


# The same as the others


def test_its_methods_are_those_of_an_encoder_awaited() -> None:
    assert e5.AsyncClient is AsyncClient
    for method in ("encode_query", "encode_document", "similarity"):
        asked, ours = (getattr(each, method) for each in (Encoder, AsyncClient))
        assert inspect.signature(ours) == inspect.signature(asked)
        assert inspect.iscoroutinefunction(ours) == (method != "similarity")
    ours, theirs = (inspect.signature(each) for each in (AsyncClient, Client))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"task": "sts_query", "normalize": True}, {"task": "", "dimensions": 7, "truncate": True}],
)
def test_the_vectors_are_those_of_an_embedder_and_of_a_client(
    url: str, embedder: Embedder, options: dict[str, Any]
) -> None:
    async def use(client: AsyncClient) -> tuple[Vectors, ...]:
        return (
            await client.encode_query(TEXTS, **options),
            await client.encode_document(TEXTS, **options),
            await client.encode_document("snow", **options),
            await client.encode_query([], **options),
        )

    def here(encoder: Encoder) -> tuple[Vectors, ...]:
        return (
            encoder.encode_query(TEXTS, **options),
            encoder.encode_document(TEXTS, **options),
            encoder.encode_document("snow", **options),
            encoder.encode_query([], **options),
        )

    found = run(url, use)
    with Client(url, deadline=20) as client:
        for vectors, ours, theirs in zip(found, here(client), here(embedder), strict=True):
            assert_same(vectors, theirs)
            assert_same(vectors, ours)


@pytest.mark.slow
def test_name_width_and_scores_are_those_of_an_embedder(url: str, embedder: Embedder) -> None:
    async def use(client: AsyncClient) -> tuple[str, int, Vectors]:
        vectors = await client.encode_query(TEXTS), await client.encode_document(TEXTS)
        return await client.name(), await client.dimensions(), client.similarity(*vectors)

    name, dimensions, scores = run(url, use)
    assert (name, dimensions) == (embedder.name, embedder.dimensions)
    truth = embedder.similarity(embedder.encode_query(TEXTS), embedder.encode_document(TEXTS))
    assert np.allclose(scores, truth, atol=1e-3)


@pytest.mark.slow
def test_many_calls_at_once_each_get_their_own(url: str, embedder: Embedder) -> None:
    texts = [f"text number {number}" for number in range(200)]

    async def use(client: AsyncClient) -> list[Vectors]:
        return await asyncio.gather(*(client.encode_document(text) for text in texts))

    assert_same(np.stack(run(url, use)), embedder.encode_document(texts))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (7, {}),
        (["a", " \n"], {}),
        ("a", {"dimensions": 193}),
        ("a", {"task": 7}),
        (["a"] * REQUEST_TEXTS + ["long " * 5000], {"truncate": False}),
    ],
)
def test_bad_input_is_the_error_of_an_embedder(
    url: str, embedder: Embedder, texts: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(E5Error) as truth:
        embedder.encode_document(texts, **options)
    with pytest.raises(type(truth.value)) as caught:
        run(url, lambda client: client.encode_document(texts, **options))
    assert str(caught.value) == str(truth.value)


def test_it_needs_no_model_s_libraries() -> None:
    code = (
        "import sys, e5; e5.AsyncClient('http://127.0.0.1:1'); "
        "print({'torch', 'transformers', 'tokenizers', 'cog', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


# Requests


@pytest.mark.parametrize("num_calls", [1, 60])
def test_a_few_requests_are_under_way_at_a_time_and_come_back_in_order(num_calls: int) -> None:
    lock, now, most, full = threading.Lock(), 0, 0, threading.Event()
    count = 12 * REQUEST_TEXTS if num_calls == 1 else 3
    limit = REQUESTS_PER_CALL if num_calls == 1 else REQUESTS_PER_CLIENT

    def reply(number: int, inputs: Inputs) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == limit:
                full.set()
        if number:  # the first one of a new client goes alone
            assert full.wait(60)
            time.sleep(0.05 * (number % 3 == 1))
        with lock:
            now -= 1
        return succeeded(inputs)

    async def use(client: AsyncClient) -> list[Vectors]:
        calls = (client.encode_document(numbers(count)) for _ in range(num_calls))
        return await asyncio.gather(*calls)

    with fake_cog(reply) as cog:
        for vectors in run(cog.url, use, deadline=60):
            assert vectors[:, 0].tolist() == list(range(count))
    assert most == limit


def test_the_service_is_asked_for_its_model_once_however_many_wait() -> None:
    def slow(_: int, inputs: Inputs) -> Reply:
        time.sleep(0.1)
        return succeeded(inputs)

    async def use(client: AsyncClient) -> None:
        names = await asyncio.gather(*(client.name() for _ in range(20)), client.dimensions())
        assert names == ["toy@1"] * 20 + [4]
        await client.encode_query("7", dimensions=2)
        assert await client.name() == "toy@1"

    with fake_cog(slow) as cog:
        run(cog.url, use)
        assert len(cog.inputs) == 2


def test_an_answer_says_what_is_served_so_nobody_asks_for_it() -> None:
    async def use(client: AsyncClient) -> None:
        await client.encode_query(["7"], dimensions=2)
        assert await client.name() == "toy@1"
        assert len(cog.inputs) == 1
        assert await client.dimensions() == 4  # this takes a whole vector
        assert (await client.encode_document([])).shape == (0, 4)
        assert len(cog.inputs) == 2

    with fake_cog(echo) as cog:
        run(cog.url, use)


def test_a_first_question_that_fails_is_asked_again_by_the_next_call() -> None:
    async def use(client: AsyncClient) -> None:
        failed = await asyncio.gather(*(client.name() for _ in range(5)), return_exceptions=True)
        assert {type(error) for error in failed} == {ServiceError}
        assert await client.name() == "toy@1"

    with fake_cog(lambda number, inputs: succeeded(inputs) if number else (404, b"")) as cog:
        run(cog.url, use)
        assert len(cog.inputs) == 2


def test_the_first_text_that_fails_is_named_and_the_rest_is_not_sent() -> None:
    released = threading.Event()

    async def use(client: AsyncClient) -> None:
        await client.name()
        with pytest.raises(InputError, match=r"^documents\[0\]: received x; send y\.$"):
            await client.encode_document(numbers(100_000))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with fake_cog(failing_but_first_last(released)) as cog:
        run(cog.url, use, deadline=60)
        released.set()
        assert len(cog.inputs) <= 1 + BEFORE_THE_FIRST + REQUESTS_PER_CALL


def test_a_client_that_was_closed_cannot_be_used() -> None:
    async def use(client: AsyncClient) -> None:
        await client.encode_query("1")
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await client.encode_query("1")

    with fake_cog(echo) as cog:
        run(cog.url, use)


# The event loop is for others too


@pytest.mark.slow
def test_the_loop_goes_on_while_a_call_waits() -> None:
    released = threading.Event()

    def held(_: int, inputs: Inputs) -> Reply:
        assert released.wait(60)
        return succeeded(inputs)

    async def use(client: AsyncClient) -> None:
        call = asyncio.create_task(client.encode_document(numbers(8 * REQUEST_TEXTS)))
        for _ in range(20):  # a loop that waits itself is free once a request
            await asyncio.sleep(0.005)
        assert not call.done()
        released.set()
        assert (await call).shape == (8 * REQUEST_TEXTS, 4)

    with fake_cog(held) as cog:
        run(cog.url, use)


def test_cancelling_one_call_ends_its_requests_and_no_other_s() -> None:
    released = threading.Event()

    def reply(number: int, inputs: Inputs) -> Reply:
        if number and inputs["documents"][0] != "7":
            released.wait(60)
        return succeeded(inputs)

    async def use(client: AsyncClient) -> None:
        await client.name()
        call = asyncio.create_task(client.encode_document(numbers(20 * REQUEST_TEXTS)))
        other = asyncio.create_task(client.encode_document(["7"]))
        await eventually(lambda: len(cog.inputs) == 2 + REQUESTS_PER_CALL)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await other).tolist() == [[7, 1, 0, 0]]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with fake_cog(reply) as cog:
        run(cog.url, use, deadline=60)
        released.set()
        assert len(cog.inputs) == 2 + REQUESTS_PER_CALL


def test_cancelling_cancels_predictions_on_replicate() -> None:
    with fake_replicate([(200, {"status": "succeeded"}), STARTING], [PROCESSING]) as api:

        async def use(client: AsyncClient) -> None:
            await client.name()
            call = asyncio.create_task(client.encode_document(numbers(2 * REQUEST_TEXTS)))
            await eventually(lambda: len({poll.path for poll in api.polls}) == 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(api.cancels) == 2

        run("replicate-deployment:you/e5", use)
    assert len(api.creates) == 3


@pytest.mark.slow
@pytest.mark.parametrize("num_cancelled", [1, 2])
def test_the_first_question_goes_on_while_somebody_waits_for_it(num_cancelled: int) -> None:
    poll = {"status": "processing"}
    with fake_replicate([STARTING], [(200, poll)]) as api:

        async def use(client: AsyncClient) -> None:
            calls = [asyncio.create_task(client.name()) for _ in range(2)]
            await eventually(lambda: api.polls)
            for call in calls[:num_cancelled]:
                call.cancel()
            await asyncio.wait(calls[:num_cancelled])
            poll["status"] = "succeeded"
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert [each == "toy@1" for each in found] == [False, num_cancelled == 1]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run("replicate-deployment:you/e5", use)
    assert len(api.creates) == 1
    assert len(api.cancels) == num_cancelled - 1
