"""LangChain's `Embeddings` over any `Encoder`, for its vector stores and retrievers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from langchain_core.embeddings import Embeddings

from e5.encoder import Encoder
from e5.vectors import Vectors


@dataclass(eq=False, kw_only=True)
class E5Embeddings(Embeddings):
    """Embeds queries under a task, and documents as documents.

    The inherited `aembed_query` and `aembed_documents` run the methods below in a thread, so that
    they do not block the event loop. Errors are those of the encoder.

    Attributes:
        encoder: what computes the vectors.
        task: the task of the queries. Documents get its prompt if it is a registered symmetric one.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n, before normalising; None keeps all.

    Example:
        >>> embeddings = E5Embeddings(Client("http://127.0.0.1:5000"))
        >>> len(embeddings.embed_query("how much protein should a female eat"))
        192
    """

    encoder: Encoder = field(kw_only=False)
    task: str = "web_search_query"
    normalize: bool = True
    dimensions: int | None = None

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return self._embedded(self.encoder.encode_query, [text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents, in order."""
        return self._embedded(self.encoder.encode_document, texts)

    def _embedded(self, encode: Callable[..., Vectors], texts: list[str]) -> list[list[float]]:
        options = {name: getattr(self, name) for name in ("task", "normalize", "dimensions")}
        return [vector.tolist() for vector in encode(texts, **options)]
