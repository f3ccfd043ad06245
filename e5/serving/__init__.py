"""One validated request -> one answer, computed in batches with the requests of other callers."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.serving.answer import Answer
    from e5.serving.request import EmbedRequest, RequestLimits
    from e5.serving.service import Service

__all__ = [
    "Answer",
    "EmbedRequest",
    "RequestLimits",
    "Service",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Answer": "e5.serving.answer",
        "EmbedRequest": "e5.serving.request",
        "RequestLimits": "e5.serving.request",
        "Service": "e5.serving.service",
    },
)
