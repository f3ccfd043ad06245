"""E5-Mistral embeddings: texts in, vectors out.

The service's request and answer models are in `e5.types`, which alone needs pydantic.
"""

from e5.embedder import Embedder
from e5.errors import (
    E5Error,
    EngineError,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
    SettingsError,
    TokenizerError,
    WeightsError,
)
from e5.prompts import TASKS, Task
from e5.settings import Settings

__all__ = [
    "TASKS",
    "E5Error",
    "Embedder",
    "EngineError",
    "InputError",
    "NonFiniteError",
    "OutOfMemoryError",
    "QueueFullError",
    "RequestTooLargeError",
    "Settings",
    "SettingsError",
    "Task",
    "TokenizerError",
    "WeightsError",
]
