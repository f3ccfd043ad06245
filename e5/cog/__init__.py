"""What is particular to Cog: the shape of its output, its folders, its worker process, its JSON."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.cog.output import Output as Output
    from e5.cog.worker import CogWorker as CogWorker

__all__, __getattr__, __dir__ = lazy_exports(__name__)
