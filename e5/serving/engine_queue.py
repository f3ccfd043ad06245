"""What a service needs of an engine: a queue that takes token ids and gives vectors.

`Batcher` is the queue of the engine in this process, `Engines` those of engines in other processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from e5.tokenizer import TokenIds
from e5.vectors import Vectors

ENGINE_FAILED = "the engine failed; the service's log has the reason."


@dataclass(frozen=True)
class BatchedVectors:
    """One request's vectors, and the forwards that computed them.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, in the request's order.
        queue_ms: milliseconds from submission to the start of its first forward.
        forward_ms: milliseconds of all forwards that contained any of its texts.
        batch_texts: texts in its last forward, including those of other requests.
        cached: texts whose vectors were kept from earlier requests; None without a cache.
    """

    vectors: Vectors
    queue_ms: float
    forward_ms: float
    batch_texts: int
    cached: int | None = None


class EngineQueue(Protocol):
    """The queue in front of one engine or several."""

    @property
    def healthy(self) -> bool:
        """See `Service.healthy`."""

    @property
    def waiting_tokens(self) -> int:
        """The number of tokens that wait for a forward."""

    @property
    def max_queue_tokens(self) -> int:
        """The number of tokens that may wait."""

    @property
    def cache_bytes(self) -> int:
        """See `Service.cache_bytes`."""

    def check_capacity(self, num_tokens: int) -> None:
        """Raise what `embed` would raise now for a request of at least `num_tokens`."""

    async def embed(self, sequences: Sequence[TokenIds]) -> BatchedVectors:
        """Queue the texts and wait for their vectors; cancelling takes them out of the queue.

        Raises what `Service.answer` raises for texts that are tokenised.
        """
