"""The wire formats of Weaviate's own containers and of its own service, which embed and rank.

They are those of the modules `text2vec-transformers`, `-model2vec`, `-gpt4all` and `-weaviate`, and
`reranker-transformers`. Its other modules speak the wire formats of other services.
"""

from typing import Any

from typing_extensions import TypedDict

from e5.gateway import wire
from e5.gateway.backend import BackendInfo
from e5.gateway.client_request import ClientRequest
from e5.gateway.ranking import cosines_with_first
from e5.gateway.roles import PromptChoice, prompt_for
from e5.gateway.wire import RouteContext, named_texts
from e5.prompts import DEFAULT_TASK
from e5.serving import Answer

VectorAnswer = TypedDict(
    "VectorAnswer", {"text": str, "vector": list[float], "dim": int, "dims": int}
)
EmbedUsage = TypedDict("EmbedUsage", {"prompt_tokens": int, "total_tokens": int})
EmbedMetadata = TypedDict(
    "EmbedMetadata", {"model": str, "num_embeddings_inferred": int, "usage": EmbedUsage}
)
WeaviateEmbedAnswer = TypedDict(
    "WeaviateEmbedAnswer", {"embeddings": list[list[float]], "metadata": EmbedMetadata}
)
ScoredDocument = TypedDict("ScoredDocument", {"document": str, "score": float})
ScoresAnswer = TypedDict("ScoresAnswer", {"query": str, "scores": list[ScoredDocument]})
MetaAnswer = TypedDict("MetaAnswer", {"model": dict[str, Any]})


class VectorConfig(wire.WireRequest):
    """The options of one text. The container's choice of how tokens are pooled is ignored."""

    task_type: wire.Role = None
    dimensions: wire.Dimensions = None


class VectorRequest(wire.WireRequest):
    """One text to embed."""

    text: wire.Text
    config: VectorConfig | None = None

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`."""
        config = self.config or VectorConfig()

        def build_body(answer: Answer) -> dict[str, Any]:
            vector = answer.vectors[0]
            # The container says `dim`, and Weaviate reads `dims`.
            return {"text": self.text, "vector": vector, "dim": vector.size, "dims": vector.size}

        return ClientRequest(
            texts=[self.text],
            fields=["text"],
            list_name="text",
            prompt=prompt_for({"config.task_type": config.task_type}),
            build_body=build_body,
            dimensions=config.dimensions,
            renames={"dimensions": "config.dimensions"},
        )


class WeaviateEmbedRequest(wire.EmbedOptions):
    """Texts to embed, as Weaviate sends them to its own service."""

    input: wire.OneOrMoreTexts
    model: str | None = None
    is_search_query: bool | None = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        model, suffix = context.resolve_model(self.model)
        role = "query" if self.is_search_query else None

        def build_body(answer: Answer) -> dict[str, Any]:
            tokens = sum(answer.tokens)
            return {
                "embeddings": list(answer.vectors),
                "metadata": {
                    "model": model,
                    "num_embeddings_inferred": len(answer.vectors),
                    "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                },
            }

        prompt = prompt_for({"is_search_query": role, "prompt_name": self.prompt_name}, suffix)
        dimensions = "dimensions", self.dimensions
        return self.embedding_request(self.input, "input", prompt, build_body, dimensions)


class ScoresRequest(wire.WireRequest):
    """A query, and documents of which each gets a score, in their order.

    Weaviate gives each score to the document at the same position, so sorted scores would land on
    the wrong documents. `property` distinguishes these requests from Cohere's.
    """

    query: wire.Text
    documents: wire.Texts
    property: str | None = None

    fits = staticmethod(lambda body: "property" in body and body.get("texts") is None)

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`. A score is the cosine."""
        documents, fields = named_texts(self.documents, "documents")

        def build_body(answer: Answer) -> dict[str, Any]:
            scores = cosines_with_first(answer.vectors).tolist()
            pairs = zip(documents, scores, strict=True)
            return {
                "query": self.query,
                "scores": [{"document": text, "score": score} for text, score in pairs],
            }

        return ClientRequest(
            texts=[self.query, *documents],
            fields=["query", *fields],
            list_name="documents",
            prompt=PromptChoice(DEFAULT_TASK, "query"),
            build_body=build_body,
            document_positions=range(1, len(documents) + 1),
        )


def meta(backend: BackendInfo) -> dict[str, Any]:
    """`GET /meta`: the model, which Weaviate shows in its own `/v1/meta`."""
    name, _, fingerprint = backend.name.partition("@")
    model = {"model_name": name, "model_type": "mistral", "fingerprint": fingerprint}
    return {"model": model | {"dimensions": backend.dimensions, "max_length": backend.max_length}}
