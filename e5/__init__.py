"""E5-Mistral embeddings: texts in, vectors out.

`Embedder` computes in this process, `Client` asks a running service; both satisfy `Encoder`. Public
names are imported when they are first used, so `import e5` alone loads neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e5.client.async_client import AsyncClient
    from e5.client.client import Client
    from e5.embedder import Embedder
    from e5.encoder import Encoder
    from e5.errors import (
        E5Error,
        EngineError,
        InputError,
        NonFiniteError,
        OutOfMemoryError,
        QueueFullError,
        RequestTooLargeError,
        ServiceError,
        SettingsError,
        TokenizerError,
        WeightsError,
    )
    from e5.prompts import TASKS, Task
    from e5.settings import Settings

__all__ = [
    "TASKS",
    "AsyncClient",
    "Client",
    "E5Error",
    "Embedder",
    "Encoder",
    "EngineError",
    "InputError",
    "NonFiniteError",
    "OutOfMemoryError",
    "QueueFullError",
    "RequestTooLargeError",
    "ServiceError",
    "Settings",
    "SettingsError",
    "Task",
    "TokenizerError",
    "WeightsError",
]

_HOMES = {
    "AsyncClient": "e5.client.async_client",
    "Client": "e5.client.client",
    "Embedder": "e5.embedder",
    "Encoder": "e5.encoder",
    "Settings": "e5.settings",
    "TASKS": "e5.prompts",
    "Task": "e5.prompts",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562); `_HOMES` lists all except errors."""
    if name not in __all__:
        raise AttributeError(f"module 'e5' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "e5.errors")), name)
    globals()[name] = value  # the next access does not call this function
    return value


def __dir__() -> list[str]:
    return __all__
