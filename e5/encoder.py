"""The protocol of everything that turns texts into vectors, in this process or behind a URL."""

from collections.abc import Sequence
from typing import Protocol

from e5.vectors import Vectors


class Encoder(Protocol):
    """Texts -> vectors, named as in sentence-transformers: an `Embedder` or a `Client`.

    Example:
        >>> def best(encoder: Encoder, query: str, documents: list[str]) -> str:
        ...     scores = encoder.similarity(
        ...         encoder.encode_query(query), encoder.encode_document(documents)
        ...     )
        ...     return documents[int(scores.argmax())]
    """

    @property
    def name(self) -> str:
        """The model: its folder's name, and a fingerprint of everything that shapes a vector."""

    @property
    def dimensions(self) -> int:
        """Dimensions of a whole vector."""

    def encode_query(
        self,
        queries: str | Sequence[str],
        *,
        task: str = "web_search_query",
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """Embed queries under a task.

        Args:
            queries: one text or many.
            task: an instruction or a registered name; "" for none.
            normalize: L2-normalise the vectors.
            dimensions: keep the first n, before normalising.
            truncate: shorten texts that are too long for the model; False makes them an error.

        Returns:
            float32 `[num_queries, dimensions]` in input order; `[dimensions]` for one string.

        Raises:
            InputError: for a text that cannot be embedded, or `dimensions` out of range.
        """

    def encode_document(
        self,
        documents: str | Sequence[str],
        *,
        task: str = "",
        symmetric: bool = False,
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """Embed documents: without a prompt, or with that of a symmetric task.

        `task` is the task of the queries to compare with, and is used only if it is symmetric:
        registered symmetric tasks always are, others if `symmetric` says so. Everything else is as
        for `encode_query`.
        """

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """Cosine x 100, float32 `[num_queries, num_documents]`; InputError if dimensions differ."""
