"""LlamaIndex gets an encoder's own vectors, whichever of its methods asks."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from adapter_contract import MANY, WHOLE, Contract, TriedAdapter, assert_same

from e5.encoder import Encoder

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed")

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import MetadataMode

from e5.adapters.llamaindex import E5Embedding

TEXTS = ["Snow is frozen water.", "A summit is a mountain top.", "Amber is resin.", "a"]


@dataclass
class LlamaIndex:
    """A `TriedAdapter`."""

    embedding: E5Embedding

    def query(self, text: str) -> list[float]:
        return self.embedding.get_query_embedding(text)

    def documents(self, texts: list[str]) -> list[list[float]]:
        return self.embedding.get_text_embedding_batch(texts)

    async def aquery(self, text: str) -> list[float]:
        return await self.embedding.aget_query_embedding(text)

    async def adocuments(self, texts: list[str]) -> list[list[float]]:
        return await self.embedding.aget_text_embedding_batch(texts)


class TestContract(Contract):
    def adapter(self, encoder: Encoder, **options: Any) -> TriedAdapter:
        return LlamaIndex(E5Embedding(encoder, **options))


def test_one_text_is_a_document(encoder: Encoder) -> None:
    embedding = E5Embedding(encoder)
    truth = encoder.encode_document(["snow"], **WHOLE)
    assert_same([embedding.get_text_embedding("snow")], truth)
    assert_same([asyncio.run(embedding.aget_text_embedding("snow"))], truth)


@pytest.mark.parametrize("size", [1, 7, 2048])
def test_batches_of_any_size_come_back_in_order(encoder: Encoder, size: int) -> None:
    embedding = E5Embedding(encoder, embed_batch_size=size)
    truth = encoder.encode_document(MANY[:50], **WHOLE)
    assert_same(embedding.get_text_embedding_batch(MANY[:50]), truth)
    assert_same(asyncio.run(embedding.aget_text_embedding_batch(MANY[:50])), truth)


def test_a_retriever_finds_what_the_encoder_finds(encoder: Encoder) -> None:
    documents = [Document(text=text, metadata={"title": text[:4]}) for text in TEXTS]
    index = VectorStoreIndex.from_documents(documents, embed_model=E5Embedding(encoder))
    embedded = [document.get_content(MetadataMode.EMBED) for document in documents]
    (scores,) = encoder.similarity(
        encoder.encode_query("what is snow"), encoder.encode_document(embedded)
    )
    retriever = index.as_retriever(similarity_top_k=4)
    for found in (
        retriever.retrieve("what is snow"),
        asyncio.run(retriever.aretrieve("what is snow")),
    ):
        assert [hit.text for hit in found] == [TEXTS[i] for i in (-scores).argsort()]
        assert [hit.get_score() * 100 for hit in found] == pytest.approx(
            sorted(scores)[::-1], abs=1e-3
        )


def test_what_another_embedding_made_is_not_taken_from_a_cache(encoder: Encoder) -> None:
    cache = IngestionCache()

    def ingest(**options: Any) -> list[float]:
        embedding = E5Embedding(encoder, **options)
        pipeline = IngestionPipeline(transformations=[embedding], cache=cache)
        (node,) = pipeline.run(documents=[Document(text="snow", id_="1")])
        assert node.embedding is not None
        return list(node.embedding)

    bare = ingest()
    assert ingest() == bare
    assert_same(
        [ingest(task="sts_query")], encoder.encode_document(["snow"], task="sts_query", **WHOLE)
    )
    assert_same([ingest(normalize=False)], encoder.encode_document(["snow"]))
    assert len(ingest(dimensions=8)) == 8


def test_it_says_what_it_is(encoder: Encoder) -> None:
    embedding = E5Embedding(encoder, task="SciFact", dimensions=32)
    said = embedding.to_dict()
    assert (said["class_name"], said["model_name"]) == ("E5Embedding", encoder.name)
    assert (said["task"], said["normalize"], said["dimensions"]) == ("SciFact", True, 32)
    assert embedding.to_payload()["model_name"] == encoder.name


def test_there_is_no_cache_that_confuses_queries_with_documents(encoder: Encoder) -> None:
    options: dict[str, Any] = {"embeddings_cache": None}
    with pytest.raises(TypeError, match="embeddings_cache"):
        E5Embedding(encoder, **options)
