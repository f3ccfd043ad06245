"""The same vectors from a running service, over HTTP, without its model and its libraries.

`Client` and `AsyncClient` are for callers: texts in, vectors out. The gateway needs more of each
answer, so it sends one request at a time through `RemoteService`.
"""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.client.async_client import AsyncClient as AsyncClient
    from e5.client.client import Client as Client
    from e5.client.cog_protocol import UNHEALTHY_REMEDY as UNHEALTHY_REMEDY
    from e5.client.json_service import JsonService as JsonService
    from e5.client.json_service import check_service_url as check_service_url
    from e5.client.prediction import RemoteAnswer as RemoteAnswer
    from e5.client.remote import DEADLINE_SECONDS as DEADLINE_SECONDS
    from e5.client.remote import RemoteService as RemoteService

__all__, __getattr__, __dir__ = lazy_exports(__name__)
