"""What turns texts into vectors, wherever that happens: in this process or behind a URL.

`Embedder` and `Client` are both an `Encoder`; search, adapters and whoever else only needs vectors
asks for one and does not care which. Knows nothing of models, HTTP or files.
"""

from collections.abc import Sequence
from typing import Protocol

from e5.vectors import Vectors


class Encoder(Protocol):
    """Texts -> vectors, in the words of sentence-transformers.

    Example:
        >>> def best(encoder: Encoder, query: str, documents: list[str]) -> str:
        ...     scores = encoder.similarity(
        ...         encoder.encode_query(query), encoder.encode_document(documents)
        ...     )
        ...     return documents[int(scores.argmax())]
    """

    @property
    def name(self) -> str:
        """Of the model: its folder's name and the fingerprint of all that shapes a vector."""

    @property
    def dimensions(self) -> int:
        """Of a whole vector."""

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
            truncate: cut texts that are too long for the model; False makes them an error.

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
        """Embed documents: bare, or with the prompt of a symmetric task.

        Args:
            documents: one text or many.
            task: the task of the queries they will meet; matters only if it is symmetric.
            symmetric: the task is symmetric; registered symmetric tasks need not say so.
            normalize: as for queries.
            dimensions: as for queries.
            truncate: as for queries.

        Returns:
            float32 `[num_documents, dimensions]` in input order; `[dimensions]` for one string.

        Raises:
            InputError: for a text that cannot be embedded, or `dimensions` out of range.
        """

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """Cosine x 100, float32 `[num_queries, num_documents]`.

        Raises:
            InputError: for vectors of different widths.
        """
