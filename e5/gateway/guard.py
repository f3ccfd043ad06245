"""What all routes share: request ids, keys, limits, the deadline, counters and refusals."""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from secrets import token_hex
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from e5.errors import E5Error, ServiceError
from e5.gateway.body import BodyParser, json_response
from e5.gateway.keys import Keys
from e5.gateway.limits import GatewayLimits
from e5.gateway.metrics import GatewayMetrics
from e5.gateway.refusals import (
    ErrorStyle,
    RefusalError,
    body_of,
    busy,
    refusal_of,
    style_of,
)

logger = logging.getLogger(__name__)

# A request that takes longer is given up when its caller hangs up: watching costs a task of 20 us.
WATCH_AFTER_SECONDS = 0.1
ERROR_STYLE = "e5.error_style"  # the key in a request's ASGI scope for its kind's form of refusals
REQUEST_ID = re.compile(r"[\w.:/-]{1,128}", re.ASCII)

Handler = Callable[[Request], Awaitable[Response]]


class Guard:
    """Wraps the handlers of all routes of one gateway.

    Attributes:
        metrics: the counters.
        draining: whether the gateway is ending: `/ready` says 503, and each answer closes its
            connection.
    """

    def __init__(
        self, parser: BodyParser, keys: Keys, limits: GatewayLimits, metrics: GatewayMetrics
    ) -> None:
        """Begin with nothing in flight.

        Args:
            parser: forgets a request's body when the request is answered.
            keys: a request to a route that is not keyless must carry one of them.
            limits: those of the gateway.
            metrics: the counters.
        """
        self.metrics = metrics
        self.draining = False
        self._parser = parser
        self._limits = limits
        self._keys = keys
        self._in_flight = 0

    def free_requests(self) -> int:
        """The number of requests that would be taken now."""
        return max(0, self._limits.in_flight - self._in_flight)

    def around(
        self, path: str, handler: Handler, *, keyless: bool = False, style: ErrorStyle = "openai"
    ) -> Handler:
        """A handler that checks the key, counts every answer, and turns errors into refusals.

        Args:
            path: the route's path, for the counters and the log.
            handler: makes the response, or raises an error.
            keyless: whether requests need no key, and are never refused for being too many.
            style: the form of refusals, where the body's kind has none of its own.
        """
        seconds, deadline = self.metrics.seconds.labels(path), self._limits.deadline_seconds

        async def guarded(request: Request) -> Response:
            started = time.perf_counter()
            request_id = _id_of(request)
            self._count(1)
            try:
                if not keyless:
                    self._keys.check(request)
                    if self._in_flight > self._limits.in_flight:
                        raise busy("too many requests at a time; try again in a moment.")
                async with asyncio.timeout(deadline):
                    response = await handler(request)
            except TimeoutError:
                sentence = f"no answer within {deadline:g} s; send fewer or shorter texts."
                refusal = RefusalError(504, sentence)
                response = self._refused(request, refusal, path, request_id, style)
            except Exception as error:
                if not isinstance(error, E5Error | RefusalError):
                    # Without the message of the exception, which may hold a text.
                    frames = "".join(traceback.format_tb(error.__traceback__))
                    kind = type(error).__name__
                    logger.error("request %s to %s failed: %s\n%s", request_id, path, kind, frames)
                elif isinstance(error, ServiceError):
                    logger.warning("request %s to %s: %s", request_id, path, error)
                response = self._refused(request, refusal_of(error), path, request_id, style)
            finally:
                self._count(-1)
                self._parser.release(request)
            response.headers["x-request-id"] = request_id
            if self.draining:
                response.headers["connection"] = "close"  # another gateway gets the next request
            if response.status_code >= 502 and not keyless:
                self.metrics.failures.labels(response.status_code).inc()
            self.metrics.requests.labels(path, response.status_code).inc()
            seconds.observe(time.perf_counter() - started)
            return response

        return guarded

    def refuse(self, request: Request, refusal: RefusalError) -> Response:
        """The response to a request that has no route."""
        request_id = _id_of(request)
        response = self._refused(request, refusal, "none", request_id, None)
        response.headers["x-request-id"] = request_id
        self.metrics.requests.labels("none", refusal.status).inc()
        return response

    def _refused(
        self,
        request: Request,
        refusal: RefusalError,
        path: str,
        request_id: str,
        style: ErrorStyle | None,
    ) -> Response:
        # Without the sentence, which may quote what the caller sent.
        logger.info("%d for %s, request %s", refusal.status, path, request_id)
        style = style_of(request.url.path, request.scope.get(ERROR_STYLE) or style)
        return json_response(body_of(refusal, style), refusal.status, refusal.headers)

    def _count(self, change: int) -> None:
        self._in_flight += change
        self.metrics.in_flight.set(self._in_flight)


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Do the work, and cancel it if the caller hangs up.

    Args:
        request: the caller's, whose body was read.
        work: makes the response.

    Raises:
        RefusalError: if the caller hung up. Nobody reads it, but it is counted.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    watching: asyncio.Task[None] | None = None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watching
        watching = loop.create_task(watch())

    timer = loop.call_later(WATCH_AFTER_SECONDS, begin)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_gone or task.uncancel():
            raise
        raise RefusalError(400, "the caller hung up; the request was given up.") from None
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


def _id_of(request: Request) -> str:
    """The caller's own id of the request, if it can go into a log; else a new one."""
    sent = request.headers.get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else token_hex(16)
