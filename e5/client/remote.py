"""A running service: its address -> how it is talked to, and the IO of that.

`Remote` and `RemoteService` run the same steps, one in the caller's thread, one in an event loop.
Knows nothing of what is sent or of how an answer is read.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import httpx2

from e5.client.cog_protocol import Cog
from e5.client.prediction import RemoteAnswer, plain
from e5.client.replicate_protocol import PREFIXES, Replicate
from e5.client.wire import Answer, Body, NoAnswerError, Request, Steps, T
from e5.errors import InputError, ServiceError, quoted

MAX_DEADLINE = 86_400.0  # a day
KEY = re.compile(r"[!-~]+")
LIBRARY_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError)


class Remote:
    """A Cog server or a model on Replicate that runs this service. May be shared by threads.

    Example, with a server of the 7B model on this port:
        >>> remote = Remote("http://127.0.0.1:5000", deadline=60)
        >>> inputs = {"document": "snow", "encoding_format": "base64"}
        >>> remote.run(remote.dialect.embed(inputs)).vectors.shape
        (1, 4096)
    """

    def __init__(
        self,
        address: str,
        *,
        deadline: float,
        patience: float | None = None,
        api_key: str | None = None,
    ) -> None:
        """See `RemoteService`."""
        self.dialect = _dialect(address, deadline, patience, api_key)
        with _usable_proxy(self.dialect):
            self._http = httpx2.Client(**_options(self.dialect))

    def run(self, steps: Steps[T]) -> T:
        """Send what the steps ask for, until they come to a result.

        Raises:
            RuntimeError: the service was closed.
        """
        try:
            request = next(steps)
            while True:
                try:
                    answer = self._ask(request)
                except BaseException as error:  # a KeyboardInterrupt too: it may have to be told
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, request: Request) -> Answer:
        time.sleep(request.after)
        body = Body(request)
        try:
            with self._http.stream(**_arguments(self.dialect, request)) as response:
                for chunk in response.iter_raw():
                    body.add(chunk)
        except LIBRARY_ERRORS as error:
            raise NoAnswerError.of(error, request) from error
        return Answer(response.status_code, response.headers, bytes(body.content))


class RemoteService:
    """The same for one event loop. Any number of requests may be under way at a time.

    Example, with a server of the built-in checkpoint on this port:
        >>> async def embed() -> list[int]:
        ...     remote = RemoteService("http://127.0.0.1:5000", deadline=60, patience=0.5)
        ...     inputs = {"documents": ["snow"], "encoding_format": "base64"}
        ...     tokens = (await remote.embed(inputs)).tokens
        ...     await remote.aclose()
        ...     return tokens
        >>> asyncio.run(embed())
        [3]
    """

    def __init__(
        self,
        address: str,
        *,
        deadline: float,
        patience: float | None = None,
        api_key: str | None = None,
    ) -> None:
        """Connects when it is first used.

        Args:
            address: the URL of a Cog server or a gateway, with its path where it has one;
                `replicate:owner/name` or `replicate:owner/name:version`; or
                `replicate-deployment:owner/name`.
            deadline: seconds in which a request must be answered, sending it again included.
            patience: seconds in which a request may be sent again after what failed only for the
                moment; 0 for never, None for as long as the deadline.
            api_key: of a gateway that asks for one; Replicate's is in the environment.

        Raises:
            InputError: for an argument that cannot be used, and for Replicate without
                REPLICATE_API_TOKEN.
            ServiceError: for a proxy in the environment that cannot be used.
        """
        self.dialect = _dialect(address, deadline, patience, api_key)
        self._farewells: set[asyncio.Task[Answer]] = set()
        with _usable_proxy(self.dialect):
            self._http = httpx2.AsyncClient(**_options(self.dialect))

    async def embed(self, inputs: Mapping[str, object]) -> RemoteAnswer:
        """Embed the texts of one request. Cancelling it cancels what the service computes for it.

        Args:
            inputs: of the service, with `encoding_format="base64"`.

        Raises:
            E5Error: if the service refused: of its class, with its sentence; EngineError where it
                failed with what is no error of ours.
            ServiceError: it is busy, cannot be reached, is not ready in time, or is no such
                service; `cause` tells which.
        """
        return await self.run(self.dialect.embed(inputs))

    async def health(self) -> str:
        """One word, READY where it answers requests; "" where nothing answers."""
        return await self.run(self.dialect.health())

    async def run(self, steps: Steps[T]) -> T:
        """Send what the steps ask for, until they come to a result.

        Raises:
            RuntimeError: the service was closed.
        """
        try:
            request = next(steps)
            while True:
                try:
                    answer = await self._ask(request)
                except asyncio.CancelledError as error:
                    await self._farewell(steps, error)
                    raise
                except Exception as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def aclose(self) -> None:
        """Close the connections, once cancelled predictions are told so."""
        await asyncio.gather(*self._farewells, return_exceptions=True)
        await self._http.aclose()

    async def _farewell(self, steps: Steps[T], error: asyncio.CancelledError) -> None:
        """Send what the steps still want to say to the service after a cancellation.

        In a task of its own: some frameworks cancel whatever the caller's task awaits from now on.
        """
        try:
            request = steps.throw(error)
        except asyncio.CancelledError:
            return  # they have nothing to say
        said = asyncio.create_task(self._ask(request))
        self._farewells.add(said)
        said.add_done_callback(self._farewells.discard)
        with suppress(Exception):
            await asyncio.shield(said)
        steps.close()

    async def _ask(self, request: Request) -> Answer:
        await asyncio.sleep(request.after)
        body = Body(request)
        try:
            async with self._http.stream(**_arguments(self.dialect, request)) as response:
                async for chunk in response.aiter_raw():
                    body.add(chunk)
        except LIBRARY_ERRORS as error:
            raise NoAnswerError.of(error, request) from error
        return Answer(response.status_code, response.headers, bytes(body.content))


def _dialect(
    address: str, deadline: float, patience: float | None, api_key: str | None
) -> Cog | Replicate:
    if not (isinstance(deadline, int | float) and 0 < deadline <= MAX_DEADLINE):
        raise InputError("deadline", quoted(deadline), f"use seconds up to {MAX_DEADLINE:.0f}")
    if patience is not None and not (isinstance(patience, int | float) and patience >= 0):
        raise InputError("patience", quoted(patience), "use seconds, 0 for none")
    if isinstance(address, str) and address.startswith(PREFIXES):
        if api_key is not None:
            remedy = "set REPLICATE_API_TOKEN instead"
            raise InputError("api_key", "a key for Replicate", remedy)
        return Replicate(address, deadline=deadline, patience=patience)
    # Shown nowhere, whatever it is.
    if api_key is not None and not (isinstance(api_key, str) and KEY.fullmatch(api_key)):
        raise InputError("api_key", "what is no key", "use one line of ASCII, without spaces")
    return Cog(address, deadline=deadline, patience=patience, api_key=api_key)


def _options(dialect: Cog | Replicate) -> dict[str, Any]:
    """Of the HTTP library's client."""
    return {
        # HTTP_PROXY, NO_PROXY and SSL_CERT_FILE count, but no proxy can reach the loopback of this
        # machine.
        "trust_env": not _is_loopback(httpx2.URL(dialect.url).host),
        "limits": httpx2.Limits(max_connections=None),  # as many as there are callers
        "headers": {
            **dialect.headers,
            "Accept-Encoding": "identity",  # base64 of floats hardly shrinks
            "Content-Type": "application/json",
        },
    }


def _arguments(dialect: Cog | Replicate, request: Request) -> dict[str, Any]:
    """Of the HTTP library's `stream`."""
    return {
        "method": request.method,
        "url": dialect.url + request.path,
        "content": request.content,
        "headers": request.headers,
        "timeout": request.timeout(),
    }


@contextmanager
def _usable_proxy(dialect: Cog | Replicate) -> Iterator[None]:
    """The HTTP library reads the environment's proxies when its client is made."""
    try:
        yield
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ServiceError(
            f"{dialect.name}: the proxy named in the environment cannot be used ({plain(error)}); "
            "correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
