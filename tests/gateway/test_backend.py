"""Whoever computes, the gateway's answer is the same; a backend that fails is said, not waited for.

Cog's server is the real one; the gateway before it is in this process.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from checkpoints import load
from fake_cog import fake_cog, succeeded
from fake_http import Reply
from gateway_server import WEIGHTS
from gateway_tools import LocalGateway, sentence_of
from processes import children
from remote_calls import eventually
from server import Server, serve

from e5.client import AsyncClient, Client
from e5.data_uris import escape
from e5.embedder import Embedder
from e5.errors import E5Error, EngineError, ServiceError
from e5.gateway.backend import InProcessBackend, RemoteBackend
from e5.serving import EmbedRequest, Service
from e5.settings import Settings
from e5.vectors import decode_base64

TEXTS = ["Frozen water.", "a\nline break", "雪 😀", "A car."]
APART = [f"{number} " + "snow and rain " * 300 for number in range(400)]  # they share no prefix
LONG = {"model": "e5-mini", "input": APART}  # seconds
Story = Callable[[LocalGateway, httpx2.AsyncClient], Awaitable[Any]]


class TestInProcess:
    def test_it_describes_the_model_and_answers_as_it_does(self, embedder: Embedder) -> None:
        service = Service.of(embedder, max_queue_tokens=10_000)
        backend = InProcessBackend(embedder, service)

        async def story() -> None:
            info = await backend.info()
            assert info.name == embedder.name
            assert info.dimensions == embedder.dimensions
            assert info.max_length == embedder.max_length
            assert info.max_batch_tokens == embedder.max_batch_tokens
            answer = await backend.answer(EmbedRequest(documents=TEXTS))
            assert np.allclose(answer.vectors, embedder.encode_document(TEXTS), atol=1e-5)
            assert (backend.waiting_tokens(), backend.max_queue_tokens) == (0, 10_000)
            await backend.close()

        asyncio.run(story())

    def test_the_gateway_counts_the_texts_that_it_did_not_compute_again(
        self, checkpoint: Path
    ) -> None:
        backend = InProcessBackend.load(Settings(weights=checkpoint, device="cpu", cache_mb=1))
        local = LocalGateway(backend)
        first, again = (
            local.post("/v1/embeddings", {"model": "small", "input": [*TEXTS[:count], "hail"]})
            for count in (2, 4)
        )
        assert first.json()["data"][0] == again.json()["data"][0]
        assert first.json()["data"][2]["embedding"] == again.json()["data"][4]["embedding"]
        assert local.counted("cache_hits_total") == 3
        assert local.counted("cache_misses_total") == 5
        assert (
            f"e5_gateway_cache_bytes {float(backend.cache_bytes())}" in local.get("/metrics").text
        )
        assert backend.cache_bytes() > 5 * 4 * 64

    def test_a_broken_engine_is_not_ready(
        self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = Service.of(embedder, max_queue_tokens=10_000)
        backend = InProcessBackend(embedder, service)

        def fail(*_: object) -> None:
            raise RuntimeError("device lost")

        async def story() -> None:
            assert await backend.ready()
            monkeypatch.setattr(embedder, "compute", fail)
            with pytest.raises(EngineError):
                await backend.answer(EmbedRequest(documents=TEXTS))
            assert not await backend.ready()

        asyncio.run(story())


def run_story(server: Server, story: Story) -> Any:
    """A story of a gateway before this server."""

    async def whole() -> Any:
        backend = await RemoteBackend.find(str(server.client.base_url))
        local = LocalGateway(backend, model=(await backend.info()).name)
        try:
            async with local.client() as client:
                return await story(local, client)
        finally:
            await backend.close()

    return asyncio.run(whole())


@pytest.fixture(scope="module")
def cog() -> Iterator[Server]:
    with serve(WEIGHTS, env={"E5_DTYPE": "float32"}) as server:
        yield server


@pytest.mark.slow
class TestBeforeCog:
    def test_the_vectors_are_the_models(self, cog: Server) -> None:
        python = load(WEIGHTS)

        async def story(_: LocalGateway, client: httpx2.AsyncClient) -> None:
            assert (await client.get("/ready")).status_code == 200
            for role, truth in {
                "query": python.encode_query(TEXTS, normalize=True),
                "document": python.encode_document(TEXTS, normalize=True),
                "clustering": python.encode_document(
                    TEXTS, task="sts_query", symmetric=True, normalize=True
                ),
            }.items():
                body = {"model": "e5-mini", "input": TEXTS, "input_type": role}
                answer = await client.post("/v1/embeddings", json=body)
                found = [row["embedding"] for row in answer.json()["data"]]
                assert np.allclose(found, truth, atol=1e-4), role
                assert answer.headers["x-e5-model"] == python.name
                # The usual one, because a service does not say it.
                assert answer.headers["x-ratelimit-limit-tokens"] == "1000000"

        run_story(cog, story)

    def test_a_data_uri_is_a_file_for_cog_and_itself_for_all_others(self, cog: Server) -> None:
        """Asked of Cog, and by both clients of Cog and of a gateway before it."""
        python, task = load(WEIGHTS), "data:text/plain,Find%20twins"
        uris = ["data:text/plain;base64,U25vdy4=", "data:,Ice", "data: the new oil", task]
        files = {"task": task, "queries": uris}
        truth = python.encode_query(["Snow.", "Ice", uris[2], "Find twins"], task="Find twins")
        output = cog.predict(files | {"encoding_format": "base64"})["output"]
        assert np.allclose(decode_base64(output["embeddings_base64"]), truth, atol=1e-4)
        truth = python.encode_query(uris, task=task)
        url = str(cog.client.base_url)
        with Client(url) as client:
            assert np.allclose(client.encode_query(uris, task=task), truth, atol=1e-4)

        async def story(_: LocalGateway, client: httpx2.AsyncClient) -> None:
            async with AsyncClient(url) as direct:
                found = await direct.encode_query(uris, task=task)
            assert np.allclose(found, truth, atol=1e-4)
            body = {"model": "e5-mini", "input": uris, "normalize": False}
            data = (await client.post("/v1/embeddings", json=body)).json()["data"]
            found = np.array([row["embedding"] for row in data])
            assert np.allclose(found, python.encode_document(uris), atol=1e-4)
            for texts in (uris, [escape(uri, "") for uri in uris]):  # a stranger, and `Client`
                inputs = {"task": texts[3], "queries": texts}
                answer = (await client.post("/predictions", json={"input": inputs})).json()
                assert np.allclose(answer["output"]["embeddings"], truth, atol=1e-4)

        run_story(cog, story)

    def test_a_wrong_text_is_named_as_the_caller_sent_it(self, cog: Server) -> None:
        async def story(_: LocalGateway, client: httpx2.AsyncClient) -> None:
            body = {"model": "e5-mini", "input": ["a", "word " * 5000], "truncate": "NONE"}
            sentence = sentence_of(await client.post("/v1/embeddings", json=body), 400)
            assert sentence.startswith("input[1]: received a text of ")

        run_story(cog, story)

    def test_more_than_it_may_ever_hold_is_413_and_a_full_queue_429(self) -> None:
        environment = {"E5_MAX_QUEUE_TOKENS": "6000"}

        async def story(_: LocalGateway, client: httpx2.AsyncClient) -> None:
            sentence_of(await client.post("/v1/embeddings", json=LONG), 413)
            body = {"model": "e5-mini", "input": ["snow and rain " * 300] * 5}
            answers = await asyncio.gather(
                *(client.post("/v1/embeddings", json=body) for _ in range(12))
            )
            assert {200, 429} == {answer.status_code for answer in answers}
            for answer in answers:
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                    assert sentence_of(answer, 429)

        with serve(WEIGHTS, env=environment) as server:
            run_story(server, story)

    def test_no_free_slot_is_429_and_nobody_is_lost(self) -> None:
        async def story(_: LocalGateway, client: httpx2.AsyncClient) -> None:
            body = {"model": "e5-mini", "input": ["snow and rain " * 300] * 20}
            answers = await asyncio.gather(
                *(client.post("/v1/embeddings", json=body) for _ in range(8))
            )
            found = sorted(answer.status_code for answer in answers)
            assert found[0] == 200
            assert found[-1] == 429
            assert set(found) == {200, 429}
            for answer in answers:
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
            again = await client.post("/v1/embeddings", json={"model": "e5-mini", "input": "a"})
            assert again.status_code == 200

        with serve(WEIGHTS, env={"COG_MAX_CONCURRENCY": "1"}) as server:
            run_story(server, story)

    @pytest.mark.parametrize("victim", ["the server", "its worker"])
    def test_killed_in_the_middle_of_a_request(self, victim: str) -> None:
        with serve(WEIGHTS, stop=False) as server:

            async def story(local: LocalGateway, client: httpx2.AsyncClient) -> None:
                asking = asyncio.create_task(client.post("/v1/embeddings", json=LONG))
                await eventually(lambda: server.num_running() == 1)
                if victim == "the server":
                    os.killpg(server.process.pid, signal.SIGKILL)
                else:
                    os.kill(children(server.process.pid)[0], signal.SIGKILL)
                # Cog never answers some of what it takes just then.
                others = []
                for _ in range(40):
                    body = {"model": "e5-mini", "input": "a"}
                    others.append(asyncio.create_task(client.post("/v1/embeddings", json=body)))
                    await asyncio.sleep(0.05)
                for answer in await asyncio.gather(asking, *others):
                    assert answer.status_code in (429, 502, 503), answer.text
                    sentence_of(answer, answer.status_code)
                assert (await client.get("/ready")).status_code == 503
                assert (await client.get("/health")).status_code == 200
                assert local.counted("in_flight") == 0

            run_story(server, story)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ftp://somewhere", "ftp://somewhere"),
        ("replicate:nobody", "replicate:nobody"),
        ("", "http://"),
    ],
)
def test_an_address_that_cannot_be_used_is_said(address: str, sentence: str) -> None:
    with pytest.raises(E5Error, match=sentence):
        asyncio.run(RemoteBackend.find(address))


def test_a_service_that_is_not_there_is_waited_for_until_the_deadline() -> None:
    with pytest.raises(ServiceError) as raised:
        asyncio.run(RemoteBackend.find("http://127.0.0.1:9", deadline=0.5))
    assert raised.value.cause in ("unreachable", "deadline")


@pytest.mark.slow
def test_what_a_dead_worker_never_answers_is_given_up() -> None:
    """Cog takes a request just then and keeps it. As long as it is healthy, it is waited for."""
    release = threading.Event()

    def reply(number: int, inputs: dict[str, Any]) -> Reply:
        if number and not release.wait(120):
            raise AssertionError("given up too late")
        return succeeded(inputs)

    with fake_cog(reply) as cog:

        async def story() -> None:
            backend = await RemoteBackend.find(cog.url, watch_seconds=0.2)
            request = EmbedRequest(documents=["1", "2"])
            asking = [asyncio.create_task(backend.answer(request)) for _ in range(3)]
            await asyncio.sleep(0.2 * 2.5)
            assert not any(task.done() for task in asking)
            cog.health = (200, {"status": "UNHEALTHY"})
            async with asyncio.timeout(60):  # the server itself ends them after two minutes
                answers = await asyncio.gather(*asking, return_exceptions=True)
            for outcome in answers:
                assert isinstance(outcome, ServiceError)
                assert outcome.cause == "unreachable"
                assert "UNHEALTHY" in str(outcome)
            cog.health = (200, {"status": "READY"})
            release.set()
            assert (await backend.answer(request)).vectors.shape == (2, 4)
            await backend.close()

        asyncio.run(story())
