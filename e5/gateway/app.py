"""The gateway's routes.

Each that computes is one wire format's function from a body to a request; all of them take the same
way from there. Knows nothing of how a wire format looks or of how vectors are computed.
"""

import asyncio
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Match, Route

from e5.errors import E5Error
from e5.gateway import cog_route, cohere, openai, tei
from e5.gateway.backend import Backend
from e5.gateway.body import Parser, dumps, written
from e5.gateway.client_request import ClientRequest, Request
from e5.gateway.fields import Fields
from e5.gateway.guard import MAX_IN_FLIGHT, Guard, Handler, while_connected
from e5.gateway.metrics import Meters
from e5.gateway.model_names import Models
from e5.gateway.openapi import description
from e5.gateway.page import prepare
from e5.gateway.refusals import RefusalError, Style
from e5.gateway.search_route import Searchable, search
from e5.serving.request import MAX_TEXTS

LARGE_ANSWER = 2**16  # numbers: some 6 ms to write
REMEDIES = {
    404: "there is no such route; GET /openapi.json lists them.",
    405: "this route does not take this method; GET /openapi.json lists what it takes.",
}

Understand = Callable[[Fields], ClientRequest | Request]


class Gateway:
    """One backend behind all routes.

    Attributes:
        app: the ASGI application.
    """

    def __init__(
        self,
        backend: Backend,
        models: Models,
        *,
        keys: Sequence[str] = (),
        index: Searchable | None = None,
    ) -> None:
        """Name the parts; nothing is asked yet.

        Args:
            backend: who computes.
            models: the names that callers may use.
            keys: one of them must come with each request that costs something; none: all may ask.
            index: adds `POST /search`.
        """
        self._backend = backend
        self._models = models
        self._index = index
        self._home = prepare(model=models.names[0], keyed=bool(keys), search=index is not None)
        self._parser = Parser()
        self._guard = Guard(self._parser, keys)
        self.app = Starlette(
            routes=self._routes(),
            exception_handlers={HTTPException: self._refused_by_router},
        )
        self.app.router.redirect_slashes = False  # not to where the Host header says

    @property
    def meters(self) -> Meters:
        """What it counts."""
        return self._guard.meters

    @property
    def draining(self) -> bool:
        """Whether `/ready` says 503 while everything else goes on."""
        return self._guard.draining

    def drain(self) -> None:
        """Prepare for the end."""
        self._guard.draining = True

    async def close(self) -> None:
        """Let go of the backend and of the process that parses."""
        self._parser.close()
        await self._backend.close()

    def _routes(self) -> list[Route]:
        models, index = self._models, self._index

        def asks(path: str, understand: Understand, style: Style = "openai") -> Route:
            async def answer(request: HttpRequest) -> Response:
                understood = understand(Fields(await self._parser.read(request)))
                inner = understood if isinstance(understood, Request) else understood.request()
                return await while_connected(request, self._answer(inner, path))

            return Route(path, self._guard.around(path, answer, style=style), methods=["POST"])

        def tells(path: str, tell: Handler, *, keyless: bool = True) -> Route:
            return Route(path, self._guard.around(path, tell, keyless=keyless), methods=["GET"])

        def rerank(fields: Fields) -> ClientRequest:
            return tei.rerank(fields) if "texts" in fields else cohere.rerank(fields, models, 1)

        def root(fields: Fields) -> ClientRequest:
            about_one = isinstance(fields.any("inputs"), dict)
            return tei.similarity(fields) if about_one else tei.embed(fields)

        return [
            asks("/v1/embeddings", lambda f: openai.embeddings(f, models)),
            asks("/embeddings", lambda f: openai.embeddings(f, models)),
            asks("/v1/embed", lambda f: cohere.embed(f, models, 1)),
            asks("/v2/embed", lambda f: cohere.embed(f, models, 2)),
            asks("/v1/rerank", lambda f: cohere.rerank(f, models, 1)),
            asks("/v2/rerank", lambda f: cohere.rerank(f, models, 2)),
            asks("/rerank", rerank, "tei"),
            asks("/embed", tei.embed, "tei"),
            asks("/similarity", tei.similarity, "tei"),
            asks("/", root, "tei"),
            asks("/predictions", cog_route.prediction, "cog"),
            *([asks("/search", lambda f: search(f, index))] if index is not None else []),
            tells("/", self._page),
            tells("/v1/models", self._list_models),
            tells("/models", self._list_models),
            tells("/v1/models/{name:path}", self._one_model),
            tells("/models/{name:path}", self._one_model),
            tells("/info", self._info),
            tells("/health", self._health),
            tells("/ready", self._ready),
            tells("/health-check", self._cog_health),
            tells("/metrics", self._metrics, keyless=False),
            tells("/openapi.json", self._openapi),
        ]

    async def _refused_by_router(self, request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        headers = {"Allow": self._methods(request)} if status == 405 else {}
        sentence = REMEDIES.get(status, str(error.detail))
        return self._guard.refuse(request, RefusalError(status, sentence, headers=headers))

    def _methods(self, request: HttpRequest) -> str:
        """What a path takes: more than one route may have it."""
        routes = [route for route in self.app.routes if isinstance(route, Route)]
        found = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
        return ", ".join(sorted({method for route in found for method in route.methods or ()}))

    async def _answer(self, request: Request, path: str) -> Response:
        """Any wire format's way from a request to its answer."""
        try:
            answer = await self._backend.answer(request.request)
        except E5Error as error:
            raise error.renamed(request.told) from error
        result = request.result(answer)
        cut = sum(result.truncated)
        self.meters.count(path, len(result.tokens), sum(result.tokens), cut)
        headers = {
            "x-e5-prompt": request.prompt,
            "x-e5-model": result.model,
            "x-e5-truncated": f"{cut}/{len(result.truncated)}",
        }
        if result.vectors.size < LARGE_ANSWER and not request.waits:
            return Response(dumps(request.shape(result)), 200, headers, "application/json")
        body = await asyncio.to_thread(request.shape, result)
        return StreamingResponse(written(body), 200, headers, "application/json")

    async def _page(self, _: HttpRequest) -> Response:
        return HTMLResponse(self._home.html, headers=self._home.headers)

    async def _list_models(self, _: HttpRequest) -> Response:
        return _json(openai.model_list(self._models))

    async def _one_model(self, request: HttpRequest) -> Response:
        name, _ = self._models.resolve(request.path_params["name"])
        return _json(openai.model_card(name))

    async def _info(self, _: HttpRequest) -> Response:
        about = await self._backend.about()
        told = tei.info(
            about.name,
            max_length=about.max_length,
            max_batch_tokens=about.max_batch_tokens,
            max_texts=MAX_TEXTS,
            most=MAX_IN_FLIGHT,
        )
        return _json(told)

    async def _health(self, _: HttpRequest) -> Response:
        return _json({"status": "alive"})

    async def _ready(self, _: HttpRequest) -> Response:
        if self.draining:
            raise RefusalError(503, "the gateway is stopping; ask another.")
        if not await self._backend.ready():
            raise RefusalError(503, "the backend cannot answer now; try again in a moment.")
        return _json({"status": "ready"})

    async def _cog_health(self, _: HttpRequest) -> Response:
        """`/ready` in Cog's words, which are always 200."""
        is_ready = not self.draining and await self._backend.ready()
        return _json({"status": "READY" if is_ready else "UNHEALTHY"})

    async def _metrics(self, _: HttpRequest) -> Response:
        self.meters.waiting_tokens.set(self._backend.waiting_tokens())
        return Response(self.meters.text(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, _: HttpRequest) -> Response:
        dimensions = (await self._backend.about()).dimensions
        return _json(description(dimensions, with_search=self._index is not None))


def _json(told: object) -> Response:
    return Response(dumps(told), media_type="application/json")
