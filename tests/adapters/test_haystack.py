"""Haystack's pipelines get an encoder's own vectors, also those that were saved and loaded."""

import os
from pathlib import Path
from typing import Any

import pytest
from adapter_contract import WHOLE, Contract, TriedAdapter, assert_same

from e5 import Client
from e5.embedder import Embedder
from e5.encoder import Encoder
from e5.errors import InputError, ServiceError

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read at import: tests tell nobody anything
pytest.importorskip("haystack", reason="Haystack is not installed")

from haystack import Document, Pipeline
from haystack.components.embedders.types import DocumentEmbedder, TextEmbedder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError, PipelineRuntimeError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

from e5.adapters.haystack import E5DocumentEmbedder, E5TextEmbedder, load

TEXTS = ["Snow is frozen water.", "A summit is a mountain top.", "Amber is resin.", "a"]


def alone(name: str, component: Any) -> Pipeline:
    """A pipeline of one component."""
    pipeline = Pipeline()
    pipeline.add_component(name, component)
    return pipeline


class Haystack:
    """A `TriedAdapter`: with await through a pipeline, which runs such components in threads."""

    def __init__(self, text_embedder: TextEmbedder, document_embedder: DocumentEmbedder) -> None:
        """Mypy sees here that both follow Haystack's protocols."""
        self.text_embedder = text_embedder
        self.document_embedder = document_embedder
        self._pipelines = alone("it", text_embedder), alone("it", document_embedder)

    def query(self, text: str) -> list[float]:
        embedding: list[float] = self.text_embedder.run(text)["embedding"]
        return embedding

    def documents(self, texts: list[str]) -> list[list[float]]:
        documents = [Document(content=text) for text in texts]
        return vectors_of(self.document_embedder.run(documents))

    async def aquery(self, text: str) -> list[float]:
        outputs = await run_async(self._pipelines[0], text=text)
        embedding: list[float] = outputs["embedding"]
        return embedding

    async def adocuments(self, texts: list[str]) -> list[list[float]]:
        documents = [Document(content=text) for text in texts]
        return vectors_of(await run_async(self._pipelines[1], documents=documents))


async def run_async(pipeline: Pipeline, **inputs: Any) -> dict[str, Any]:
    """What comes out; an error of ours without the frame that Haystack puts around it."""
    try:
        outputs: dict[str, Any] = (await pipeline.run_async({"it": inputs}))["it"]
    except PipelineRuntimeError as error:
        cause = error.__cause__
        raise (cause if cause and str(cause) in str(error) else error) from error
    return outputs


def vectors_of(outputs: dict[str, Any]) -> list[list[float]]:
    """Those of the documents that came out."""
    return [document.embedding for document in outputs["documents"]]


class TestContract(Contract):
    def adapter(self, encoder: Encoder, **options: Any) -> TriedAdapter:
        return Haystack(E5TextEmbedder(encoder, **options), E5DocumentEmbedder(encoder, **options))


def test_a_pipeline_finds_what_the_encoder_finds(encoder: Encoder) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", E5DocumentEmbedder(encoder))
    indexing.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.FAIL))
    indexing.connect("embedder", "writer")
    indexing.run({"embedder": {"documents": [Document(content=text) for text in TEXTS]}})

    searching = Pipeline()
    searching.add_component("embedder", E5TextEmbedder(encoder))
    searching.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=4))
    searching.connect("embedder.embedding", "retriever.query_embedding")
    found = searching.run({"embedder": {"text": "what is snow"}})["retriever"]["documents"]

    (scores,) = encoder.similarity(
        encoder.encode_query("what is snow"), encoder.encode_document(TEXTS)
    )
    assert [hit.content for hit in found] == [TEXTS[i] for i in (-scores).argsort()]
    assert [hit.score * 100 for hit in found] == pytest.approx(sorted(scores)[::-1], abs=1e-3)


def test_documents_given_are_left_as_they_were(encoder: Encoder) -> None:
    given = Document(content="snow", meta={"title": "a"})
    (embedded,) = E5DocumentEmbedder(encoder).run([given])["documents"]
    assert given.embedding is None
    assert (embedded.id, embedded.content, embedded.meta) == (given.id, "snow", {"title": "a"})


def test_fields_of_meta_stand_above_the_content(encoder: Encoder) -> None:
    embedder = E5DocumentEmbedder(encoder, meta_fields_to_embed=["title", "year", "none"])
    documents = [
        Document(content="Frozen water.", meta={"title": "Snow", "year": 1999, "none": None}),
        Document(content="Resin.", meta={"year": 0}),
        Document(meta={"title": "Amber"}),
    ]
    truth = ["Snow\n1999\nFrozen water.", "0\nResin.", "Amber"]
    assert_same(vectors_of(embedder.run(documents)), encoder.encode_document(truth, **WHOLE))


@pytest.mark.parametrize("documents", [[Document(content=None)], [Document(content="")]])
def test_a_document_without_text_is_an_error(encoder: Encoder, documents: list[Document]) -> None:
    with pytest.raises(InputError, match=r"^documents\[0\]: received blank text"):
        E5DocumentEmbedder(encoder).run(documents)


# Saved and loaded


def both(encoder: Any, location: str | None = None) -> Pipeline:
    """A pipeline of both components, with options that are not the defaults."""
    pipeline = alone("text", E5TextEmbedder(encoder, location, task="SciFact", normalize=False))
    embedder = E5DocumentEmbedder(
        encoder, location, task="sts_query", dimensions=32, meta_fields_to_embed=["title"]
    )
    pipeline.add_component("documents", embedder)
    return pipeline


def loaded(pipeline: Pipeline) -> Pipeline:
    """As another process would load it."""
    return Pipeline.loads(pipeline.dumps(), allowed_modules=["e5.*"])


def assert_embeds_as(pipeline: Pipeline, encoder: Encoder) -> None:
    documents = [Document(content="Frozen water.", meta={"title": "Snow"})]
    outputs = pipeline.run({"text": {"text": "snow"}, "documents": {"documents": documents}})
    query = encoder.encode_query(["snow"], task="SciFact")
    assert_same([outputs["text"]["embedding"]], query)
    truth = encoder.encode_document(
        ["Snow\nFrozen water."], task="sts_query", dimensions=32, **WHOLE
    )
    assert_same(vectors_of(outputs["documents"]), truth)


def test_a_saved_pipeline_embeds_as_before(
    checkpoint: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E5_DEVICE", "cpu")
    monkeypatch.setenv("E5_DTYPE", "float32")
    pipeline = both(load, str(checkpoint))
    again = loaded(pipeline)
    assert again.dumps() == pipeline.dumps()
    assert_embeds_as(again, embedder)


@pytest.mark.slow
def test_a_saved_pipeline_over_a_service_embeds_as_before(service: str) -> None:
    with Client(service, deadline=60) as client:
        pipeline = loaded(both(Client, service))
        assert_embeds_as(pipeline, client)
        pipeline.close()
        assert_embeds_as(pipeline, client)  # connects again
        pipeline.close()


def test_an_encoder_that_was_given_is_not_closed() -> None:
    client = Client("http://127.0.0.1:1", deadline=0.1)
    embedder = E5TextEmbedder(client)
    embedder.close()
    with client, pytest.raises(ServiceError):
        embedder.run("snow")


def test_a_pipeline_written_by_hand_may_use_the_public_name() -> None:
    written = both(Client, "http://127.0.0.1:1").dumps().replace("e5.client.client.", "e5.")
    pipeline = Pipeline.loads(written, allowed_modules=["e5.*"])
    embedder = pipeline.get_component("text")
    assert isinstance(embedder, E5TextEmbedder)
    assert embedder.encoder is Client


def test_what_is_saved_can_be_read_and_changed() -> None:
    saved = both(Client, "http://127.0.0.1:1").to_dict()["components"]
    assert saved["text"] == {
        "type": "e5.adapters.haystack.E5TextEmbedder",
        "init_parameters": {
            "encoder": "e5.client.client.Client",
            "location": "http://127.0.0.1:1",
            "task": "SciFact",
            "normalize": False,
            "dimensions": None,
        },
    }
    assert saved["documents"]["init_parameters"]["meta_fields_to_embed"] == ["title"]


def test_a_folder_is_loaded_once_for_all_components(checkpoint: Path) -> None:
    assert load(str(checkpoint)) is load(str(checkpoint))


def test_nothing_is_connected_or_loaded_before_it_is_used() -> None:
    loaded(both(Client, "http://127.0.0.1:1"))
    loaded(both(load, "/nowhere"))


def test_a_pipeline_that_was_not_allowed_to_is_not_loaded() -> None:
    with pytest.raises(DeserializationError, match=r"allowed_modules=\['e5"):
        Pipeline.loads(both(Client, "http://127.0.0.1:1").dumps())


@pytest.mark.parametrize("location", [None, "anywhere"])
def test_what_no_name_leads_to_cannot_be_saved(embedder: Embedder, location: str | None) -> None:
    given = embedder if location is None else lambda _: embedder
    with pytest.raises(InputError) as caught:
        both(given, location).dumps()
    assert str(caught.value).endswith("; give a class and a location to save it.")
