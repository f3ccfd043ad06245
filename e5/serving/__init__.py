"""One validated request -> one answer, computed in batches with the requests of other callers."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.serving.engines import Engines as Engines
    from e5.serving.lifeline import FrontConfig as FrontConfig
    from e5.serving.request import Answer as Answer
    from e5.serving.request import EmbedRequest as EmbedRequest
    from e5.serving.request import RequestLimits as RequestLimits
    from e5.serving.service import ServedModel as ServedModel
    from e5.serving.service import Service as Service
    from e5.serving.whole_machine import run_processes as run_processes

__all__, __getattr__, __dir__ = lazy_exports(__name__)
