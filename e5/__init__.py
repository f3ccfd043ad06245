"""E5-Mistral embeddings: texts in, vectors out.

`Embedder` computes in this process, `Client` asks a running service; both satisfy `Encoder`. Public
names are imported when they are first used, so `import e5` alone loads neither torch nor pydantic.
"""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.client import AsyncClient, Client
    from e5.embedder import Embedder
    from e5.encoder import Encoder
    from e5.errors import (
        E5Error,
        EngineError,
        FieldError,
        FileError,
        InputError,
        NonFiniteError,
        OutOfMemoryError,
        QueueFullError,
        RequestTooLargeError,
        ServiceError,
        SettingsError,
        TextError,
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
    "FieldError",
    "FileError",
    "InputError",
    "NonFiniteError",
    "OutOfMemoryError",
    "QueueFullError",
    "RequestTooLargeError",
    "ServiceError",
    "Settings",
    "SettingsError",
    "Task",
    "TextError",
    "TokenizerError",
    "WeightsError",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    dict.fromkeys((name for name in __all__ if name.endswith("Error")), "e5.errors")
    | {
        "AsyncClient": "e5.client",
        "Client": "e5.client",
        "Embedder": "e5.embedder",
        "Encoder": "e5.encoder",
        "Settings": "e5.settings",
        "TASKS": "e5.prompts",
        "Task": "e5.prompts",
    },
)
