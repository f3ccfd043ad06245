"""The service's answers, as arrays and plain values."""

from dataclasses import dataclass

from e5.vectors import Vectors


@dataclass(frozen=True)
class Answer:
    """What the service computed for one request.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, queries first, then documents.
        scores: float32 `[num_queries, num_documents]`, cosine x 100; may be empty.
        tokens: the number of tokens read of each text, in the order of the vectors.
        truncated: whether each text was truncated.
        model: name and fingerprint of the model.
        metrics: `queue_ms`, `forward_ms`, `tokens` and `batch_texts`.
    """

    vectors: Vectors
    scores: Vectors
    tokens: list[int]
    truncated: list[bool]
    model: str
    metrics: dict[str, float]

    @property
    def num_numbers(self) -> int:
        """The number of float32 values in vectors and scores together."""
        return self.vectors.size + self.scores.size
