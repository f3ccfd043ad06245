"""The wire formats that other clients already speak, in front of one service."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.gateway.app import Gateway
    from e5.gateway.backend import Backend, InProcessBackend, RemoteBackend
    from e5.gateway.limits import GatewayLimits
    from e5.gateway.model_names import ModelNames
    from e5.gateway.server import serve
    from e5.gateway.wire import Searchable

__all__ = [
    "Backend",
    "Gateway",
    "GatewayLimits",
    "InProcessBackend",
    "ModelNames",
    "RemoteBackend",
    "Searchable",
    "serve",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Backend": "e5.gateway.backend",
        "Gateway": "e5.gateway.app",
        "GatewayLimits": "e5.gateway.limits",
        "InProcessBackend": "e5.gateway.backend",
        "ModelNames": "e5.gateway.model_names",
        "RemoteBackend": "e5.gateway.backend",
        "Searchable": "e5.gateway.wire",
        "serve": "e5.gateway.server",
    },
)
