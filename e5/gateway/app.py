"""The gateway: its routes, and what happens to every request between its body and its answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from typing_extensions import TypedDict

from e5.errors import E5Error, InputError, quoted
from e5.gateway.backend import Backend
from e5.gateway.body import BodyParser, json_pieces, json_response
from e5.gateway.client_request import ServiceCall
from e5.gateway.guard import ERROR_STYLE, Guard, while_connected
from e5.gateway.keys import Keys
from e5.gateway.limits import GatewayLimits
from e5.gateway.listing_routes import listing_get_routes
from e5.gateway.metrics import GatewayMetrics
from e5.gateway.model_names import ModelNames
from e5.gateway.openapi import (
    ANSWER_HEADERS,
    BACKEND_STATUSES,
    ID_HEADER,
    REFUSAL_HEADERS,
    description,
)
from e5.gateway.page import prepare_page
from e5.gateway.path_router import PathRouter
from e5.gateway.rate_limits import RateLimits
from e5.gateway.refusals import RefusalError
from e5.gateway.replicate_models import replicate_get_routes
from e5.gateway.replicate_route import KeptPredictions
from e5.gateway.routes import AUDIT_ROUTE, POST_ROUTES, SEARCH_ROUTE, GetRoute, PostRoute
from e5.gateway.wire import Auditor, InformationRequest, RouteContext, Searchable
from e5.serving import FrontConfig

StatusAnswer = TypedDict("StatusAnswer", {"status": str})
OpenApiAnswer = TypedDict(
    "OpenApiAnswer", {"openapi": str, "info": dict[str, Any], "paths": dict[str, Any]}
)


class Gateway:
    """One backend behind all routes.

    Attributes:
        app: the ASGI application.
        limits: how much it takes at a time.
    """

    def __init__(
        self,
        backend: Backend,
        model_names: ModelNames,
        *,
        keys: Sequence[str] = (),
        origins: Sequence[str] = (),
        index: Searchable | None = None,
        auditor: Auditor | None = None,
        limits: GatewayLimits = GatewayLimits(),  # noqa: B008 (it is frozen)
        front: FrontConfig | None = None,
    ) -> None:
        """Put the parts together; the backend is not asked yet.

        Args:
            backend: computes the vectors.
            model_names: the model names that callers may use.
            keys: a request to a route that is not keyless must carry one of them; without any, no
                request needs a key.
            origins: the web pages of these origins may ask it from a browser; `*` for all pages.
            index: adds the route `POST /search`, which searches it.
            auditor: adds the route `POST /audit`, which asks it.
            limits: how much it takes at a time.
            front: the configuration of a front, which shares counters and predictions with others.
        """
        self._backend = backend
        self._model_names = model_names
        self._index, self._auditor = index, auditor
        self.limits = limits
        self._page = prepare_page(
            model=model_names.names[0],
            keyed=bool(keys),
            search=index is not None,
            audit=auditor is not None,
        )
        self._parser = BodyParser(limits)
        self._predictions = KeptPredictions(
            limits.kept_prediction_bytes, None if front is None else Path(front.folder)
        )
        self._guard = Guard(self._parser, Keys(keys), limits, GatewayMetrics(front))
        self._post_routes = [
            *POST_ROUTES,
            *([] if index is None else [SEARCH_ROUTE]),
            *([] if auditor is None else [AUDIT_ROUTE]),
        ]
        self._get_routes = self._all_get_routes()
        routes = [*map(self._post, self._post_routes), *map(self._get, self._get_routes)]
        self._rate_limits = RateLimits(backend, limits.in_flight, self._guard.free_requests)
        self.app = Starlette(
            routes=[PathRouter(routes)],
            middleware=[_cors(origins)] if origins else [],
            exception_handlers={HTTPException: self._refused_by_router},
        )
        self.app.router.redirect_slashes = False  # a redirect trusts the Host header

    @property
    def metrics(self) -> GatewayMetrics:
        """The counters."""
        return self._guard.metrics

    @property
    def draining(self) -> bool:
        """Whether it is ending: `/ready` says 503, and each answer closes its connection."""
        return self._guard.draining

    def drain(self) -> None:
        """Have `/ready` say 503 from now on, so that a balancer sends no more requests."""
        self._guard.draining = True

    async def close(self) -> None:
        """Close the backend, and end the process that parses."""
        self._parser.close()
        await self._backend.close()

    def _all_get_routes(self) -> list[GetRoute]:
        ready = StatusAnswer, self._ready, (503,)
        return [
            GetRoute("/", "Shows the page for people.", "text/html", self._show_page),
            *listing_get_routes(
                self._model_names, self._backend, max_requests=self.limits.in_flight
            ),
            *replicate_get_routes(self._model_names, self._predictions),
            GetRoute("/health", "Says that the process lives.", StatusAnswer, self._health),
            GetRoute("/ready", "Says whether requests are answered now.", *ready),
            GetRoute(
                "/health-check", "Gives the status as Cog does.", StatusAnswer, self._cog_health
            ),
            GetRoute(
                "/.well-known/live", "Answers Weaviate as /health.", StatusAnswer, self._health
            ),
            GetRoute("/.well-known/ready", "Answers Weaviate as /ready.", *ready),
            GetRoute(
                "/metrics",
                "Gives the counters to Prometheus.",
                "text/plain",
                self._metrics,
                (401, 429),
                keyless=False,
            ),
            GetRoute(
                "/openapi.json",
                "Describes all routes.",
                OpenApiAnswer,
                self._openapi,
                BACKEND_STATUSES,
            ),
        ]

    def _post(self, route: PostRoute) -> Route:
        route_context = RouteContext(
            route.path,
            self._model_names,
            self._index,
            self._auditor,
            keep_prediction=self._predictions.keep,
        )

        async def respond(request: HttpRequest) -> Response:
            body = await self._parser.read(request, any_content_type=route.any_content_type)
            kind = route.kind_of(body)
            request.scope[ERROR_STYLE] = kind.error_style
            wire_request, params = kind.parse(body), request.path_params
            context = replace(route_context, path_params=params) if params else route_context
            if isinstance(wire_request, InformationRequest):
                return await while_connected(request, self._inform(wire_request, context))
            call = wire_request.service_call(context)
            return await while_connected(request, self._answer(call, route.path))

        guarded = self._guard.around(route.path, respond, style=route.error_style)
        return Route(route.path, guarded, methods=["POST"])

    def _get(self, route: GetRoute) -> Route:
        guarded = self._guard.around(
            route.path, route.handler, keyless=route.keyless, style=route.error_style
        )
        return Route(route.path, guarded, methods=[route.method])

    async def _refused_by_router(self, request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status, headers = error.status_code, error.headers or {}
        if status == 405:
            received = f"{request.method}, which this route does not take"
            methods = headers["Allow"].replace(", ", " or ")
            remedy = f"send {methods}, or use another route of GET /openapi.json"
            wrong = InputError("the method", received, remedy)
        else:
            received = f"{quoted(request.url.path)}, and there is no such route"
            wrong = InputError("the path", received, "use one that GET /openapi.json lists")
        return self._guard.refuse(request, RefusalError(status, wrong, headers))

    async def _answer(self, call: ServiceCall, path: str) -> Response:
        """Ask the backend, and make the HTTP response; the same for every wire format."""
        try:
            answer = await self._backend.answer(call.request)
        except E5Error as error:
            raise error.renamed(call.renames) from error
        answer = call.in_callers_order(answer)
        num_texts, num_truncated = len(answer.tokens), sum(answer.truncated)
        self.metrics.count(
            path,
            texts=num_texts,
            tokens=sum(answer.tokens),
            truncated=num_truncated,
            cached=answer.metrics.get("cached"),
        )
        headers = {
            "x-e5-prompt": call.prompt,
            "x-e5-model": answer.model,
            "x-e5-truncated": f"{num_truncated}/{num_texts}",
        }
        is_large = answer.vectors.size >= self.limits.large_answer_floats
        if not is_large and not call.reads_disk:
            response = json_response(call.build_body(answer), headers=headers)
        else:
            body = await asyncio.to_thread(call.build_body, answer)
            response = StreamingResponse(json_pieces(body), 200, headers, "application/json")
        response.raw_headers += self._rate_limits.headers()
        return response

    async def _inform(self, body: InformationRequest, context: RouteContext) -> Response:
        """Make the response to a request that needs no vector."""
        answer = await body.information(context, self._backend)
        return StreamingResponse(json_pieces(answer), 200, media_type="application/json")

    async def _show_page(self, _: HttpRequest) -> Response:
        return HTMLResponse(self._page.html, headers=self._page.headers)

    async def _health(self, _: HttpRequest) -> Response:
        return json_response({"status": "alive"})

    async def _ready(self, _: HttpRequest) -> Response:
        if self.draining:
            raise RefusalError(503, "the gateway is stopping; ask another.")
        if not await self._backend.ready():
            raise RefusalError(503, "the backend cannot answer now; try again in a moment.")
        return json_response({"status": "ready"})

    async def _cog_health(self, _: HttpRequest) -> Response:
        is_ready = not self.draining and await self._backend.ready()
        return json_response({"status": "READY" if is_ready else "UNHEALTHY"})

    async def _metrics(self, _: HttpRequest) -> Response:
        # In a thread: what several processes count takes many milliseconds to add up.
        waiting_tokens, cache_bytes = self._backend.waiting_tokens(), self._backend.cache_bytes()
        text = await asyncio.to_thread(self.metrics.text, waiting_tokens, cache_bytes)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _openapi(self, _: HttpRequest) -> Response:
        info = await self._backend.info()
        routes = self._post_routes, self._get_routes
        return json_response(description(*routes, dimensions=info.dimensions))


def _cors(origins: Sequence[str]) -> Middleware:
    """Lets pages of these origins read answers in a browser, and answers preflights itself."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_private_network=True,  # from a page of the internet to a gateway in an office
        expose_headers=[*ANSWER_HEADERS, *ID_HEADER, *REFUSAL_HEADERS.values()],
    )
