"""`Client` and `AsyncClient` at a gateway over real HTTP: the vectors of `Embedder`."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gateway_server import GatewayServer, serve_gateway

from e5 import AsyncClient, Client
from e5.embedder import Embedder
from e5.errors import InputError, ServiceError

pytestmark = pytest.mark.slow  # starts a server

QUERIES = ["what is snow", "data:,how%20warm%20is%20tea"]  # which stays as it is
DOCUMENTS = ["Frozen water.", "A car.", "Hot.", "data:text/plain;base64,c25vdw=="]


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayServer]:
    with serve_gateway(key="a-key") as running:
        yield running


def test_client_gets_the_vectors_of_the_embedder(gateway: GatewayServer, python: Embedder) -> None:
    many = [f"note {i}" for i in range(700)]
    with Client(gateway.url, api_key="a-key") as client:
        assert (client.name, client.dimensions) == (python.name, python.dimensions)
        for task in ("web_search_query", "sts_query", "Find", ""):
            found = client.encode_query(QUERIES, task=task)
            assert np.allclose(found, python.encode_query(QUERIES, task=task), atol=1e-4)
        found = client.encode_document(DOCUMENTS, task="Find twins", symmetric=True)
        truth = python.encode_document(DOCUMENTS, task="Find twins", symmetric=True)
        assert np.allclose(found, truth, atol=1e-4)
        found = client.encode_document(many, dimensions=8, normalize=True)
        truth = python.encode_document(many, dimensions=8, normalize=True)
        assert np.allclose(found, truth, atol=1e-5)


def test_so_does_asyncclient(gateway: GatewayServer, python: Embedder) -> None:
    async def embed() -> Any:
        async with AsyncClient(gateway.url, api_key="a-key") as client:
            return await client.encode_query(QUERIES)

    assert np.allclose(asyncio.run(embed()), python.encode_query(QUERIES), atol=1e-4)


def test_a_wrong_text_is_named_and_costs_one_request(gateway: GatewayServer) -> None:
    with Client(gateway.url, api_key="a-key") as client:
        client.name  # noqa: B018 - asks once
        before = gateway.counted()
        with pytest.raises(InputError, match=r"^documents\[0\]: received a text of \d+ tokens"):
            client.encode_document(["word " * 5000], truncate=False)
        assert gateway.counted() - before == 1


def test_a_wrong_key_is_said(gateway: GatewayServer) -> None:
    for key in (None, "another"):
        with (
            Client(gateway.url, api_key=key) as client,
            pytest.raises(ServiceError, match="the key is missing or wrong") as raised,
        ):
            client.encode_query("a")
        assert "another" not in str(raised.value)


@pytest.mark.parametrize("key", ["two words", "", "a\nb", "é", 7])
def test_what_is_no_key_is_refused_without_showing_it(key: Any) -> None:
    with pytest.raises(InputError, match=r"^api_key: received a value that cannot be a key; use"):
        Client("http://127.0.0.1:1", api_key=key)
