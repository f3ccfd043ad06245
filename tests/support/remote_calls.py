"""Calls of a `RemoteService` from a test that has no event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from e5.client import RemoteAnswer, RemoteService

T = TypeVar("T")

INPUTS: dict[str, Any] = {"documents": ["7"], "encoding_format": "base64"}


def with_service(
    address: str,
    use: Callable[[RemoteService], Awaitable[T]],
    *,
    deadline: float = 20,
    **options: Any,
) -> T:
    """What `use` returns; the service is closed afterwards."""

    async def connected() -> T:
        service = RemoteService(address, deadline=deadline, **options)
        try:
            return await use(service)
        finally:
            await service.aclose()

    return asyncio.run(connected())


def embed(address: str, inputs: dict[str, Any] = INPUTS, **options: Any) -> RemoteAnswer:
    """The answer to one request."""
    return with_service(address, lambda service: service.embed(inputs), **options)


def health(address: str, **options: Any) -> str:
    """What the service says of its health."""
    return with_service(address, lambda service: service.health(), **options)


async def eventually(is_true: Callable[[], object]) -> None:
    """Wait until a condition holds; at most a minute."""
    async with asyncio.timeout(60):
        while not is_true():
            await asyncio.sleep(0.01)
