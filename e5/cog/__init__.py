"""What is particular to Cog: the shape of its output, its folders, its worker process, its JSON."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.cog.output import Output
    from e5.cog.worker import CogWorker

__all__ = [
    "CogWorker",
    "Output",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CogWorker": "e5.cog.worker",
        "Output": "e5.cog.output",
    },
)
