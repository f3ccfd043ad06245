"""The table of the gateway's routes: Starlette's routes and `/openapi.json` are made from it.

Each wire format is a module with its requests and the schemas of its answers, and has lines here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from e5.gateway import (
    audit_route,
    cog_route,
    cohere,
    google,
    nvidia,
    ollama,
    openai,
    replicate_route,
    search_route,
    tei,
    tokens,
    weaviate,
)
from e5.gateway.refusals import ErrorStyle
from e5.gateway.wire import WireRequest


@dataclass(frozen=True)
class PostRoute:
    """A route that reads a request from the body.

    Attributes:
        path: of the URL, as Starlette writes it. A parameter `name` in it is the model's name, and
            wins over that of the body.
        summary: what it does, as a sentence.
        answer: the type of its answers.
        requests: the kinds of requests that it takes. A body is of the first kind that it fits, or
            of the last.
        error_style: the form of its refusals.
        any_content_type: whether the header Content-Type may say something else than JSON.
    """

    path: str
    summary: str
    answer: Any
    requests: tuple[type[WireRequest], ...]
    error_style: ErrorStyle = "openai"
    any_content_type: bool = False

    def kind_of(self, body: Mapping[str, Any]) -> type[WireRequest]:
        """The kind of request that a body holds."""
        *kinds, last = self.requests
        return next((kind for kind in kinds if kind.fits(body)), last)


@dataclass(frozen=True)
class GetRoute:
    """A route that reads no body.

    Attributes:
        path: of the URL, as Starlette writes it.
        summary: what it does, as a sentence.
        answer: the type of its answer, or the media type of one that is not JSON.
        handler: makes the response.
        refusals: the statuses with which it may refuse.
        keyless: whether it needs no key.
        method: the HTTP method.
        error_style: the form of its refusals.
    """

    path: str
    summary: str
    answer: Any
    handler: Callable[[HttpRequest], Awaitable[Response]]
    refusals: tuple[int, ...] = ()
    keyless: bool = True
    method: str = "GET"
    error_style: ErrorStyle = "openai"


_OPENAI = openai.EmbeddingsAnswer, (openai.EmbeddingsRequest,)
_VECTOR = weaviate.VectorAnswer, (weaviate.VectorRequest,)
_WEAVIATE = weaviate.WeaviateEmbedAnswer, (weaviate.WeaviateEmbedRequest,)
_COHERE = cohere.CohereEmbedAnswer, (cohere.CohereInputsRequest, cohere.CohereTextsRequest)
_RERANK = cohere.RerankAnswer, (cohere.RerankRequest,)
_EITHER_RERANK = (
    tei.RankTextsAnswer | weaviate.ScoresAnswer | cohere.RerankAnswer,
    (tei.RankTextsRequest, weaviate.ScoresRequest, cohere.RerankRequest),
)
_TEI = tei.VectorsAnswer, (tei.EmbedWithParametersRequest, tei.EmbedTextsRequest)
_TEI_OR_COHERE = _TEI[0] | _COHERE[0], (cohere.CohereTextsRequest, *_TEI[1])
_SIMILARITY = tei.CosinesAnswer, (tei.SimilarityRequest,)
_HUGGING_FACE = tei.VectorsAnswer | tei.CosinesAnswer, _SIMILARITY[1] + _TEI[1]
_REPLICATE = replicate_route.ReplicatePrediction, (replicate_route.ReplicateRequest,)
_EITHER_PREDICTION = (
    cog_route.PredictionAnswer | replicate_route.ReplicatePrediction,
    (replicate_route.ReplicateRequest, cog_route.PredictionRequest),
)
_AUDIT = audit_route.AuditAnswer, (audit_route.AuditRequest,)
_SEARCH = search_route.SearchAnswer, (search_route.SearchRequest,)
_RANKING = nvidia.RankingAnswer, (nvidia.RankingRequest,)
_OLLAMA_EMBED = ollama.OllamaEmbedAnswer, (ollama.OllamaLoadRequest, ollama.OllamaTextsRequest)
_OLLAMA_OLDER = (  # or OpenAI's, for clients whose base URL ends in /api
    ollama.OllamaEmbeddingAnswer | openai.EmbeddingsAnswer,
    (ollama.OllamaLoadRequest, openai.EmbeddingsRequest, ollama.OllamaPromptRequest),
)
_OLLAMA_SHOW = ollama.OllamaShowAnswer, (ollama.OllamaShowRequest,)
_TOKENIZE = (
    tokens.TextTokensAnswer | tokens.TokenizeAnswer,
    (tokens.TokenizeTextRequest, tokens.TokenizePromptRequest, tokens.TokenizeTextsRequest),
)
_DECODE = tokens.DecodeAnswer, (tokens.DecodeRequest,)
_DETOKENIZE = tokens.DetokenizeAnswer, (tokens.DetokenizeRequest,)
_CONTENT = google.EmbedContentAnswer, (google.EmbedContentRequest,)
_CONTENTS = google.BatchEmbedContentsAnswer, (google.BatchEmbedContentsRequest,)
_COUNT = tokens.CountTokensAnswer, (tokens.CountTokensRequest,)
_PREDICT = google.PredictAnswer, (google.PredictRequest,)
_HUGGING_FACE_TASKS = ("feature-extraction", "sentence-similarity")
_HUGGING_FACE_PATHS = (
    *(
        f"{models}/{{name:path}}{task}"
        for models in ("/models", "/hf-inference/models")
        for task in ("", *(f"/pipeline/{task}" for task in _HUGGING_FACE_TASKS))
    ),
    *(f"/pipeline/{task}{name}" for task in _HUGGING_FACE_TASKS for name in ("", "/{name:path}")),
)


def _google_routes(models: str) -> tuple[PostRoute, ...]:
    """The routes that AI Studio and Vertex AI share; `models` stands before the model's name."""
    path = f"{models}/{{name:path}}"
    return (
        PostRoute(f"{path}:embedContent", "Embeds for Google's clients.", *_CONTENT, "google"),
        PostRoute(
            f"{path}:batchEmbedContents",
            "Embeds batches for Google's clients.",
            *_CONTENTS,
            "google",
        ),
        PostRoute(f"{path}:countTokens", "Counts tokens for Google's clients.", *_COUNT, "google"),
    )


def _vertex_ai_routes(parent: str) -> tuple[PostRoute, ...]:
    """The routes of Vertex AI, before which `/v1` or `/v1beta1` stands."""
    models = f"{parent}/publishers/google/models"
    path = f"{models}/{{name:path}}:predict"
    predict = PostRoute(path, "Embeds for clients of Vertex AI.", *_PREDICT, "google")
    return (*_google_routes(models), predict)


POST_ROUTES = (
    PostRoute("/v1/embeddings", "Embeds for clients of OpenAI, Voyage, NVIDIA and Jina.", *_OPENAI),
    PostRoute("/embeddings", "Embeds as /v1/embeddings does.", *_OPENAI),
    PostRoute("/v1/embeddings/embed", "Embeds for Weaviate as its own service.", *_WEAVIATE),
    PostRoute("/vectors", "Embeds a text for Weaviate's transformers module.", *_VECTOR, "tei"),
    PostRoute("/vectorize", "Embeds a text for Weaviate's gpt4all module.", *_VECTOR, "tei"),
    PostRoute("/v1/embed", "Embeds for Cohere's clients, version 1.", *_COHERE),
    PostRoute("/v2/embed", "Embeds for Cohere's clients, version 2.", *_COHERE),
    PostRoute("/v1/rerank", "Ranks documents by cosine for clients of Cohere and Jina.", *_RERANK),
    PostRoute("/v2/rerank", "Ranks documents by cosine for Cohere's clients.", *_RERANK),
    PostRoute("/rerank", "Ranks texts by cosine for other clients.", *_EITHER_RERANK, "tei"),
    PostRoute("/embed", "Embeds for clients of text-embeddings-inference.", *_TEI_OR_COHERE, "tei"),
    PostRoute("/similarity", "Computes a sentence's cosines with others.", *_SIMILARITY, "tei"),
    PostRoute("/", "Embeds or compares for Hugging Face's clients.", *_HUGGING_FACE, "tei"),
    PostRoute(
        "/predictions",
        "Answers as this project's Cog server does; with a version, as Replicate does.",
        *_EITHER_PREDICTION,
        "cog",
    ),
    # The path names the model, whatever the body says.
    PostRoute(
        "/openai/deployments/{name:path}/embeddings", "Embeds for Azure's clients.", *_OPENAI
    ),
    PostRoute("/deployments/{name:path}/embeddings", "Embeds for Azure's clients.", *_OPENAI),
    PostRoute("/models/embeddings", "Embeds for clients of Azure AI inference.", *_OPENAI),
    PostRoute("/v1/predictions", "Answers Replicate's clients.", *_REPLICATE, "replicate"),
    PostRoute(
        "/models/{name:path}/predictions", "Answers Replicate's clients.", *_REPLICATE, "replicate"
    ),
    PostRoute(
        "/deployments/{name:path}/predictions",
        "Answers Replicate's clients.",
        *_REPLICATE,
        "replicate",
    ),
    PostRoute("/v1/ranking", "Ranks passages by cosine for NVIDIA's clients.", *_RANKING),
    PostRoute("/v1/retrieval/nvidia/reranking", "Ranks as /v1/ranking does.", *_RANKING),
    PostRoute(
        "/v1/retrieval/nvidia/{name:path}/reranking", "Ranks as /v1/ranking does.", *_RANKING
    ),
    PostRoute("/v1/retrieval/{name:path}/reranking", "Ranks as /v1/ranking does.", *_RANKING),
    # Ollama's own examples use curl, whose default Content-Type is that of a form.
    PostRoute("/api/embed", "Embeds for Ollama's clients.", *_OLLAMA_EMBED, "tei", True),
    PostRoute("/api/embeddings", "Embeds for Ollama's older clients.", *_OLLAMA_OLDER, "tei", True),
    PostRoute("/api/show", "Describes the model for Ollama's clients.", *_OLLAMA_SHOW, "tei", True),
    *_google_routes("/v1beta/models"),
    *_google_routes("/v1/models"),
    *_vertex_ai_routes("/projects/{project}/locations/{location}"),
    *_vertex_ai_routes(""),
    *(
        PostRoute(path, "Embeds or compares as / does.", *_HUGGING_FACE, "tei")
        for path in _HUGGING_FACE_PATHS
    ),
    PostRoute("/tokenize", "Gives the token ids of texts.", *_TOKENIZE),
    PostRoute("/decode", "Gives the texts of token ids.", *_DECODE, "tei"),
    PostRoute("/detokenize", "Gives the text of token ids.", *_DETOKENIZE),
)
AUDIT_ROUTE = PostRoute("/audit", "Says what was done to a text's vector.", *_AUDIT)
SEARCH_ROUTE = PostRoute("/search", "Finds the documents nearest to a query.", *_SEARCH)
