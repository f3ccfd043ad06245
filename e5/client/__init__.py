"""The same vectors from a running service, over HTTP, without its model and its libraries.

`Client` and `AsyncClient` are for callers: texts in, vectors out. The gateway needs more of each
answer, so it sends one request at a time through `RemoteService`.
"""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.client.async_client import AsyncClient
    from e5.client.client import Client
    from e5.client.cog_protocol import UNHEALTHY_REMEDY
    from e5.client.prediction import RemoteAnswer
    from e5.client.remote import DEADLINE_SECONDS, RemoteService

__all__ = [
    "DEADLINE_SECONDS",
    "UNHEALTHY_REMEDY",
    "AsyncClient",
    "Client",
    "RemoteAnswer",
    "RemoteService",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DEADLINE_SECONDS": "e5.client.remote",
        "UNHEALTHY_REMEDY": "e5.client.cog_protocol",
        "AsyncClient": "e5.client.async_client",
        "Client": "e5.client.client",
        "RemoteAnswer": "e5.client.prediction",
        "RemoteService": "e5.client.remote",
    },
)
