"""The wire formats that other clients already speak, in front of one service."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.gateway.app import Gateway
    from e5.gateway.backend import Backend, InProcessBackend, RemoteBackend
    from e5.gateway.server import serve

__all__ = [
    "Backend",
    "Gateway",
    "InProcessBackend",
    "RemoteBackend",
    "serve",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Backend": "e5.gateway.backend",
        "Gateway": "e5.gateway.app",
        "InProcessBackend": "e5.gateway.backend",
        "RemoteBackend": "e5.gateway.backend",
        "serve": "e5.gateway.server",
    },
)
