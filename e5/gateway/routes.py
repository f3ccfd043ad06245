"""The table of the gateway's routes: Starlette's routes and `/openapi.json` are made from it.

A wire format is a module with the models of its requests and answers, and its lines here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from e5.gateway.cog_route import PredictionAnswer, PredictionRequest
from e5.gateway.cohere import (
    CohereEmbedAnswer,
    CohereInputsRequest,
    CohereTextsRequest,
    RerankAnswer,
    RerankRequest,
)
from e5.gateway.openai import EmbeddingsAnswer, EmbeddingsRequest
from e5.gateway.refusals import ErrorStyle
from e5.gateway.search_route import SearchAnswer, SearchRequest
from e5.gateway.tei import (
    EmbedTextsAnswer,
    EmbedTextsRequest,
    EmbedWithParametersRequest,
    RankTextsAnswer,
    RankTextsRequest,
    SimilarityAnswer,
    SimilarityRequest,
)
from e5.gateway.wire import WireRequest


@dataclass(frozen=True)
class PostRoute:
    """A route that computes.

    Attributes:
        path: of the URL.
        summary: what it does, as a sentence.
        requests: the kinds of requests that it takes. A body is of the first kind that it fits, or
            of the last.
        answers: the kinds of answers that it gives.
        error_style: the form of its refusals.
    """

    path: str
    summary: str
    requests: tuple[type[WireRequest], ...]
    answers: tuple[type[BaseModel], ...]
    error_style: ErrorStyle = "openai"

    def parse(self, body: Mapping[str, Any]) -> WireRequest:
        """The request that a body holds.

        Raises:
            InputError: naming the field that is wrong.
        """
        *kinds, last = self.requests
        return next((kind for kind in kinds if kind.fits(body)), last).parse(body)


@dataclass(frozen=True)
class GetRoute:
    """A route that tells something.

    Attributes:
        path: of the URL, as Starlette writes it.
        summary: what it does, as a sentence.
        answer: the kind of its answer, or the type of an answer that is not JSON.
        handler: makes the response.
        refusals: the statuses with which it may refuse.
        keyless: whether it needs no key.
    """

    path: str
    summary: str
    answer: type[BaseModel] | str
    handler: Callable[[HttpRequest], Awaitable[Response]]
    refusals: tuple[int, ...] = ()
    keyless: bool = True


_EMBEDDINGS = (EmbeddingsRequest,), (EmbeddingsAnswer,)
_COHERE_EMBED = (CohereInputsRequest, CohereTextsRequest), (CohereEmbedAnswer,)
_RERANK = (RerankRequest,), (RerankAnswer,)
_EMBED = (EmbedWithParametersRequest, EmbedTextsRequest)

POST_ROUTES = (
    PostRoute(
        "/v1/embeddings",
        "Embeds texts for clients of OpenAI, Voyage, NVIDIA and Jina.",
        *_EMBEDDINGS,
    ),
    PostRoute("/embeddings", "Embeds texts as /v1/embeddings does.", *_EMBEDDINGS),
    PostRoute("/v1/embed", "Embeds texts for Cohere's clients, version 1.", *_COHERE_EMBED),
    PostRoute("/v2/embed", "Embeds texts for Cohere's clients, version 2.", *_COHERE_EMBED),
    PostRoute("/v1/rerank", "Ranks documents for clients of Cohere and Jina, by cosine.", *_RERANK),
    PostRoute(
        "/v2/rerank", "Ranks documents for Cohere's clients, version 2, by cosine.", *_RERANK
    ),
    PostRoute(
        "/rerank",
        "Ranks texts for clients of text-embeddings-inference and Voyage, by cosine.",
        (RankTextsRequest, RerankRequest),
        (RankTextsAnswer, RerankAnswer),
        "tei",
    ),
    PostRoute(
        "/embed",
        "Embeds texts for clients of text-embeddings-inference.",
        _EMBED,
        (EmbedTextsAnswer,),
        "tei",
    ),
    PostRoute(
        "/similarity",
        "Computes the cosines of one sentence with others.",
        (SimilarityRequest,),
        (SimilarityAnswer,),
        "tei",
    ),
    PostRoute(
        "/",
        "Embeds or compares texts for Hugging Face's clients.",
        (SimilarityRequest, *_EMBED),
        (EmbedTextsAnswer, SimilarityAnswer),
        "tei",
    ),
    PostRoute(
        "/predictions",
        "Answers as the Cog server of this project does.",
        (PredictionRequest,),
        (PredictionAnswer,),
        "cog",
    ),
)
SEARCH_ROUTE = PostRoute(
    "/search", "Finds the documents nearest to a query.", (SearchRequest,), (SearchAnswer,)
)
