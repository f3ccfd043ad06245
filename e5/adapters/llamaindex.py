"""LlamaIndex's `BaseEmbedding` over any `Encoder`: indexes and retrievers embed with it.

Queries are embedded as queries under a task, nodes as documents. Knows nothing of models or HTTP,
nor of LlamaIndex beyond that one class.
"""

import asyncio

from llama_index.core.base.embeddings.base import BaseEmbedding

from e5.encoder import Encoder


class E5Embedding(BaseEmbedding):
    """Embeds for LlamaIndex.

    Attributes:
        model_name: the encoder's name. With the attributes below it is what LlamaIndex tells
            one embedding from another by, so that a cached ingestion is not reused for another.
        task: of the queries. Documents carry it too if it is a registered symmetric one.
        normalize: L2-normalise the vectors.
        dimensions: the first n are kept, before normalising; None keeps all.

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
        """Ask the encoder its name, and keep how to ask it for vectors.

        There is no `embeddings_cache`: LlamaIndex looks vectors up by the text alone, and would
        give a query the vector of the document with the same words.

        Args:
            encoder: what computes the vectors.
            task: see the class's attributes, as for all others.
            normalize: see there.
            dimensions: see there.
            embed_batch_size: nodes handed over at a time. LlamaIndex's most: the encoder itself
                cuts them into batches that fit.

        Raises:
            ServiceError: the encoder is a `Client` whose service cannot be reached.
        """
        super().__init__(  # type: ignore[call-arg]  # mypy sees the fields of the base alone
            model_name=encoder.name,
            embed_batch_size=embed_batch_size,
            task=task,
            normalize=normalize,
            dimensions=dimensions,
        )
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name of this class."""
        return "E5Embedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vectors = self._encoder.encode_query(
            [query], task=self.task, normalize=self.normalize, dimensions=self.dimensions
        )
        vector: list[float] = vectors[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors = self._encoder.encode_document(
            texts, task=self.task, normalize=self.normalize, dimensions=self.dimensions
        )
        return [vector.tolist() for vector in vectors]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
