"""LangChain's `Embeddings` over any `Encoder`: vector stores and retrievers embed with it.

Queries are embedded as queries under a task, documents as documents. Knows nothing of models or
HTTP, nor of LangChain beyond that one class.
"""

from langchain_core.embeddings import Embeddings

from e5.encoder import Encoder


class E5Embeddings(Embeddings):
    """Embeds for LangChain.

    `aembed_query` and `aembed_documents` are inherited: they run the methods below in a thread, so
    that no event loop waits.

    Attributes:
        encoder: what computes the vectors.
        task: of the queries. Documents carry it too if it is a registered symmetric one.
        normalize: L2-normalise the vectors.
        dimensions: the first n are kept, before normalising; None keeps all.

    Example:
        >>> embeddings = E5Embeddings(Client("http://127.0.0.1:5000"))
        >>> len(embeddings.embed_query("how much protein should a female eat"))
        192
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        task: str = "web_search_query",
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> None:
        """Keep the encoder and how to ask it; see the class's attributes."""
        self.encoder = encoder
        self.task = task
        self.normalize = normalize
        self.dimensions = dimensions

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query.

        Raises:
            E5Error: as `Encoder.encode_query` does.
        """
        vectors = self.encoder.encode_query(
            [text], task=self.task, normalize=self.normalize, dimensions=self.dimensions
        )
        vector: list[float] = vectors[0].tolist()
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents, in their order.

        Raises:
            E5Error: as `Encoder.encode_document` does.
        """
        vectors = self.encoder.encode_document(
            texts, task=self.task, normalize=self.normalize, dimensions=self.dimensions
        )
        return [vector.tolist() for vector in vectors]
