"""Finds the route of a request, also where a client's base URL and its own path overlap.

The most common mistake with a base URL is a slash or a `/v1` too many: `/v1/embeddings/`,
`//embeddings`, `/v1/v1/embeddings`. Such a path is answered as what it means, without a redirect:
clients do not follow one for POST, or drop the body and the key.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

# The ends of base URLs. Before a path that has no route, they are left out.
PREFIXES = frozenset(("api", "openai", "v1", "v1beta", "v1beta1", "v2"))
# No prefix may stand before these, so a proxy that lets only `/v1` through hides them from callers.
UNPREFIXED = frozenset(("/metrics",))
REPEATED = re.compile(r"((?:/[^/]+)+?)\1+(?=/|$)")
MAX_PATH = 200  # characters, without repeated slashes; a longer path is looked up as it is
FOUND = "e5.route"  # the key in a request's ASGI scope for its route; None for a wrong method
ALLOWED = "e5.allowed_methods"


class PathRouter(BaseRoute):
    """All routes together, as one route of Starlette's.

    A path that has a route of its own costs one lookup. Of the paths with parameters, the longest
    that fits and takes the method counts. Parameters are strings.

    Attributes:
        routes: all of them.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self._routes: dict[str, dict[str, Route]] = {}  # by path and method
        with_parameters: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            by_method = dict.fromkeys(route.methods or (), route)
            if route.param_convertors:
                _, others = with_parameters.setdefault(route.path, (route.path_regex, {}))
                others |= by_method
            else:
                self._routes.setdefault(route.path, {}).update(by_method)
        paths = sorted(with_parameters, key=len, reverse=True)
        self._routes_with_parameters = [with_parameters[path] for path in paths]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Find the route: what Starlette asks of each route."""
        if scope["type"] != "http":
            return Match.NONE, {}
        method, path = scope["method"], scope["path"]
        if route := self._routes.get(path, {}).get(method):
            return Match.FULL, {FOUND: route}
        allowed: Set[str] = frozenset()  # by the route that is nearest to the path
        for meant in meanings(path):
            for by_method, params in self._find(meant):
                route = by_method.get(method)
                # A name with slashes would take what has a route of its own, for another method.
                if route and not (allowed and route.path.endswith(":path}")):
                    return Match.FULL, {FOUND: route, "path_params": params}
                allowed = allowed or by_method.keys()
        return (Match.FULL, {FOUND: None, ALLOWED: allowed}) if allowed else (Match.NONE, {})

    def _find(self, path: str) -> Iterator[tuple[Mapping[str, Route], Mapping[str, str]]]:
        """The routes of a path by method, and its parameters; the longest route's path first."""
        if by_method := self._routes.get(path):
            yield by_method, {}
            return
        for pattern, by_method in self._routes_with_parameters:
            if match := pattern.match(path):
                yield by_method, match.groupdict()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; where no route with its path takes the method, by an HTTPException."""
        if scope[FOUND] is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(scope[ALLOWED]))})
        await scope[FOUND].app(scope, receive, send)


def meanings(path: str) -> Iterator[str]:
    """What a path may mean, the nearest first.

    Example:
        >>> list(meanings("//v1/v1//embeddings/"))
        ['/v1/v1/embeddings', '/v1/embeddings', '/embeddings']
    """
    path = "/" + "/".join(filter(None, path.split("/")))
    yield path
    if len(path) > MAX_PATH:
        return
    if (once := REPEATED.sub(r"\1", path)) != path:
        path = once
        yield path
    while True:
        prefix, _, rest = path[1:].partition("/")
        path = f"/{rest}"
        if prefix not in PREFIXES or not rest or path in UNPREFIXED:
            return
        yield path
