"""E5-Mistral embeddings: texts in, vectors out.

`Embedder` computes in this process, `Client` asks a running service; both satisfy `Encoder`. Public
names are imported when they are first used, so `import e5` alone loads neither torch nor pydantic.
"""

import os
from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

# How often an idle OpenMP thread looks for work before it sleeps; OpenMP reads it when torch is
# imported. GNU OpenMP's default, 300,000, takes the cores from threads that have work: beside busy
# processes a forward is then many times slower. 1,000 costs nothing on a quiet machine
# (docs/benchmarks).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from e5.client import AsyncClient as AsyncClient
    from e5.client import Client as Client
    from e5.embedder import Embedder as Embedder
    from e5.encoder import Encoder as Encoder
    from e5.errors import E5Error as E5Error
    from e5.errors import EngineError as EngineError
    from e5.errors import FieldError as FieldError
    from e5.errors import FileError as FileError
    from e5.errors import InputError as InputError
    from e5.errors import NonFiniteError as NonFiniteError
    from e5.errors import OutOfMemoryError as OutOfMemoryError
    from e5.errors import QueueFullError as QueueFullError
    from e5.errors import RequestTooLargeError as RequestTooLargeError
    from e5.errors import ServiceError as ServiceError
    from e5.errors import SettingsError as SettingsError
    from e5.errors import TextError as TextError
    from e5.errors import TokenizerError as TokenizerError
    from e5.errors import WeightsError as WeightsError
    from e5.prompts import TASKS as TASKS
    from e5.prompts import Task as Task
    from e5.settings import Settings as Settings

__all__, __getattr__, __dir__ = lazy_exports(__name__)
