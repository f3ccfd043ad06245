"""LlamaIndex's `BaseEmbedding` over any `Encoder`, for its indexes and retrievers."""

import asyncio
from collections.abc import Callable

from llama_index.core.base.embeddings.base import BaseEmbedding

from e5.encoder import Encoder
from e5.vectors import Vectors


class E5Embedding(BaseEmbedding):
    """Embeds queries under a task, and nodes as documents.

    There is no `embeddings_cache`: LlamaIndex looks vectors up by the text alone, and would give a
    query the vector of a document with the same text.

    Attributes:
        model_name: the encoder's name. LlamaIndex reuses a cached ingestion only if the name and
            the attributes below are the same.
        task: the task of the queries. Nodes get its prompt if it is a registered symmetric one.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n, before normalising; None keeps all.

    Example:
        >>> embedding = E5Embedding(Client("http://127.0.0.1:5000"))
        >>> index = VectorStoreIndex.from_documents(documents, embed_model=embedding)
    """

    task: str
    normalize: bool
    dimensions: int | None
    _encoder: Encoder

    def __init__(
        self,
        encoder: Encoder,
        *,
        task: str = "web_search_query",
        normalize: bool = True,
        dimensions: int | None = None,
        embed_batch_size: int = 2048,
    ) -> None:
        """Keep the encoder and read its name; see the class's attributes.

        `embed_batch_size` nodes go to the encoder in one call. The default is LlamaIndex's largest,
        because the encoder itself splits them into batches.

        Raises:
            ServiceError: the encoder is a `Client` whose service cannot be reached.
        """
        super().__init__(  # type: ignore[call-arg]  # mypy sees only the fields of the base class
            model_name=encoder.name,
            embed_batch_size=embed_batch_size,
            task=task,
            normalize=normalize,
            dimensions=dimensions,
        )
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """The name of this class in LlamaIndex."""
        return "E5Embedding"

    def _embedded(self, encode: Callable[..., Vectors], texts: list[str]) -> list[list[float]]:
        options = {name: getattr(self, name) for name in ("task", "normalize", "dimensions")}
        return [vector.tolist() for vector in encode(texts, **options)]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedded(self._encoder.encode_query, [query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedded(self._encoder.encode_document, texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
