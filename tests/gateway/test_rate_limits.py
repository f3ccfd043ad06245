"""Answers say how much may be sent next, so that Weaviate sends batches."""

import asyncio

import httpx2
import numpy as np
import pytest
from gateway_tools import FakeBackend, LocalGateway, answer_of

from e5.gateway.limits import GatewayLimits
from e5.gateway.rate_limits import RateLimits
from e5.serving import Answer, EmbedRequest


def rate_limits(response: httpx2.Response) -> dict[str, int]:
    """As Weaviate's OpenAI module reads them; -1 for a header that is missing or no number."""
    names = ("limit-requests", "limit-tokens", "remaining-requests", "remaining-tokens")
    return {name: int(response.headers.get(f"x-ratelimit-{name}", -1)) for name in names}


def test_rate_limits_are_the_limits(fake: FakeBackend) -> None:
    local = LocalGateway(fake, limits=GatewayLimits(in_flight=50))
    response = local.post("/v1/embeddings", {"input": "snow"})
    assert rate_limits(response) == {
        "limit-requests": 50,
        "limit-tokens": fake.max_queue_tokens,
        "remaining-requests": 49,  # without the one that is being answered
        "remaining-tokens": fake.max_queue_tokens - fake.waiting_tokens(),
    }
    assert response.headers["x-ratelimit-reset-requests"] == "1s"
    assert response.headers["x-ratelimit-reset-tokens"] == "1s"


def test_remaining_requests_and_tokens_fall_while_others_are_answered(fake: FakeBackend) -> None:
    waiting = asyncio.Event()

    async def wait_for_the_last(request: EmbedRequest) -> Answer:
        if request.documents == ["last"]:
            waiting.set()
        await waiting.wait()
        return answer_of(np.ones((1, 8), np.float32))

    fake.outcome = wait_for_the_last
    fake.max_queue_tokens = 5  # fewer than wait
    local = LocalGateway(fake, limits=GatewayLimits(in_flight=4))

    async def story() -> list[httpx2.Response]:
        async with local.client() as client:
            texts = ["first", "second", "last"]
            asks = [client.post("/v1/embeddings", json={"input": text}) for text in texts]
            return await asyncio.gather(*asks)

    limits = [rate_limits(response) for response in asyncio.run(story())]
    assert min(limit["remaining-requests"] for limit in limits) == 1
    assert {limit["remaining-tokens"] for limit in limits} == {0}


def test_waiting_tokens_are_counted_again_and_not_for_every_answer(fake: FakeBackend) -> None:
    always = RateLimits(fake, 5, lambda: 3, count_seconds=0)
    once = RateLimits(fake, 5, lambda: 3, count_seconds=3600)
    assert dict(always.headers()) == dict(once.headers())
    fake.max_queue_tokens = 70
    assert dict(always.headers())[b"x-ratelimit-remaining-tokens"] == b"63"
    assert dict(once.headers())[b"x-ratelimit-remaining-tokens"] == b"993"


@pytest.mark.parametrize("tokens", [40, 500])
def test_two_hundred_objects_are_two_requests_of_weaviate_s(
    tokens: int, local: LocalGateway
) -> None:
    """Its decision (`sendBatch` and `CanSendFullBatch`), with what a default gateway tells it."""
    limits = rate_limits(local.post("/v1/embeddings", {"input": "the first object"}))
    assert min(limits.values()) > 0  # else it goes on asking for one object at a time
    sent, left, requests = 1, 199 * tokens, 1
    fits = limits["remaining-tokens"] >= left and left * 100 // limits["limit-tokens"] <= 15
    assert fits
    assert 100 // limits["limit-requests"] <= 15
    while sent < 200:
        requests += 1
        most = min(2000, 0.95 * limits["remaining-tokens"] // tokens, 0.95 * 300_000 // tokens)
        sent += int(most)
    assert requests == 2
