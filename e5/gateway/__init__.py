"""The gateway: an HTTP server that speaks the wire formats of other clients."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.gateway.app import Gateway as Gateway
    from e5.gateway.backend import Backend as Backend
    from e5.gateway.backend import InProcessBackend as InProcessBackend
    from e5.gateway.backend import RemoteBackend as RemoteBackend
    from e5.gateway.engines_backend import EnginesBackend as EnginesBackend
    from e5.gateway.limits import GatewayLimits as GatewayLimits
    from e5.gateway.model_names import ModelNames as ModelNames
    from e5.gateway.server import serve as serve
    from e5.gateway.wire import Searchable as Searchable

__all__, __getattr__, __dir__ = lazy_exports(__name__)
