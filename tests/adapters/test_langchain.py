"""LangChain gets an encoder's own vectors, in its own words; and its own suite says so too."""

from dataclasses import dataclass
from typing import Any

import pytest
from adapter_contract import Contract, TriedAdapter

from e5.encoder import Encoder

pytest.importorskip("langchain_core", reason="LangChain is not installed")
pytest.importorskip("langchain_tests", reason="LangChain's tests are not installed")

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from e5.adapters.langchain import E5Embeddings


@dataclass
class LangChain:
    """A `TriedAdapter`."""

    embeddings: E5Embeddings

    def query(self, text: str) -> list[float]:
        return self.embeddings.embed_query(text)

    def documents(self, texts: list[str]) -> list[list[float]]:
        return self.embeddings.embed_documents(texts)

    async def aquery(self, text: str) -> list[float]:
        return await self.embeddings.aembed_query(text)

    async def adocuments(self, texts: list[str]) -> list[list[float]]:
        return await self.embeddings.aembed_documents(texts)


class TestContract(Contract):
    def adapter(self, encoder: Encoder, **options: Any) -> TriedAdapter:
        return LangChain(E5Embeddings(encoder, **options))


@pytest.fixture
def anyio_backend() -> str:
    """What runs the suite's asynchronous tests."""
    return "asyncio"


class Made:
    """What LangChain's own suite makes: an adapter over the encoder."""

    @pytest.fixture(autouse=True)
    def _keep(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return E5Embeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"encoder": self.encoder}


class TestLangChainsUnitTests(Made, EmbeddingsUnitTests):
    pass


@pytest.mark.anyio
class TestLangChainsIntegrationTests(Made, EmbeddingsIntegrationTests):
    pass


def test_a_retriever_finds_what_the_encoder_finds(encoder: Encoder) -> None:
    texts = ["Snow is frozen water.", "A summit is a mountain top.", "Amber is resin.", "a"]
    store = InMemoryVectorStore.from_texts(texts, E5Embeddings(encoder))
    scores = encoder.similarity(
        encoder.encode_query("what is snow"), encoder.encode_document(texts)
    )
    found = store.similarity_search_with_score("what is snow", k=4)
    assert [hit.page_content for hit, _ in found] == [texts[i] for i in (-scores[0]).argsort()]
    assert [score * 100 for _, score in found] == pytest.approx(sorted(scores[0])[::-1], abs=1e-3)
