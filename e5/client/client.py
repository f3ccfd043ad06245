"""`Client`: an `Encoder` whose model runs elsewhere; `AsyncClient` for callers without a loop."""

import os
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

from tqdm import tqdm

from e5.client.async_client import AsyncClient
from e5.client.batch import Options
from e5.client.loop_thread import LoopThread, T
from e5.client.remote import DEADLINE_SECONDS
from e5.texts import check_texts
from e5.vectors import Vectors, similarity


class Client:
    """The same vectors as from `Embedder`, computed by a running service. An `Encoder`.

    May be shared by threads. Requests are sent from an event loop in a thread of its own, which
    starts with the first request; after a fork, the new process starts its own. KeyboardInterrupt
    cancels what the service computes for the call.

    Loopback addresses are reached directly; for all others the proxy and certificate variables of
    the environment count (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).

    What fails for the moment is sent again, with growing pauses: a lost or refused connection, no
    free slot, a full queue, a service that is still starting. Embedding a text twice does no harm.
    On Replicate, which bills each prediction, one is created again only if it cannot have begun.
    Every answer says what is served, so only `name`, `dimensions` and an empty list of texts need a
    request of their own, and only before the first answer.

    Raises, beside the errors of `Encoder`:
        TextError: for a text that has no finite vector, or does not fit in memory.
        QueueFullError: the service's queue stayed full until the deadline.
        EngineError: the service's engine broke.
        ServiceError: the service cannot be reached, or changed its model in between.

    Example, with a server of the built-in checkpoint on this port:
        >>> with Client("http://127.0.0.1:5000") as client:
        ...     client.encode_query(["how much protein should a female eat"]).shape
        (1, 192)
    """

    def __init__(
        self, url: str, *, deadline: float = DEADLINE_SECONDS, api_key: str | None = None
    ) -> None:
        """Connects when it is first used.

        Args:
            url: of a Cog server that runs this service, or of a gateway; or, on Replicate,
                `replicate:owner/name` with its newest version, `replicate:owner/name:version`, or
                `replicate-deployment:owner/name`.
            deadline: seconds in which each request (at most 256 texts) must be answered, sending it
                again included. The default lets a 7B model load, or a full queue empty; a wrong
                port is warned about after two seconds.
            api_key: of a gateway that asks for one.

        Raises:
            InputError: for an argument that cannot be used, and for Replicate without
                REPLICATE_API_TOKEN in the environment.
            ServiceError: for a proxy in the environment that cannot be used.
        """
        self._make_client = partial(AsyncClient, url, deadline=deadline, api_key=api_key)
        self._connections: dict[int, tuple[AsyncClient, LoopThread]] = {}  # of each process
        self._connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._connection()[1].stop()

    @property
    def name(self) -> str:
        """The name of the model; until the first answer, the service is asked for it.

        Every later answer must come from the same model.
        """
        return self._run(AsyncClient.name)

    @property
    def dimensions(self) -> int:
        """The number of dimensions of a whole vector; the service is asked as for `name`."""
        return self._run(AsyncClient.dimensions)

    def encode_query(
        self,
        queries: str | Sequence[str],
        *,
        task: str = "web_search_query",
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """See `Encoder.encode_query`, and `Client` for what else is raised."""
        options = Options(task, False, normalize, dimensions, truncate)
        return self._encode("queries", queries, options)

    def encode_document(
        self,
        documents: str | Sequence[str],
        *,
        task: str = "",
        symmetric: bool = False,
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """See `Encoder.encode_document`, and `Client` for what else is raised."""
        options = Options(task, symmetric, normalize, dimensions, truncate)
        return self._encode("documents", documents, options)

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """See `Encoder.similarity`; computed here."""
        return similarity(queries, documents)

    def _encode(self, field: str, texts: str | Sequence[str], options: Options) -> Vectors:
        checked, _ = check_texts(texts, field)  # in this thread: an iterator may use this client
        bar = tqdm(
            total=len(checked), desc="embed", unit="text", delay=2, leave=False, disable=None
        )
        with bar:
            # No further limit of requests at a time: the number of callers' threads is one.
            vectors = self._run(
                lambda client: client._embed(field, checked, options, nullcontext(), bar.update)
            )
        return vectors[0] if isinstance(texts, str) else vectors

    def _run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        client, loop_thread = self._connection()
        return loop_thread.run(lambda: work(client))

    def _connection(self) -> tuple[AsyncClient, LoopThread]:
        """Those of this process: a fork can use neither a thread nor sockets of its parent."""
        process = os.getpid()
        if process not in self._connections:
            client = self._make_client()
            for parent, _ in self._connections.values():
                client._model = client._model or parent._model
                client._width = client._width or parent._width
            loop_thread = LoopThread(cleanup=client.aclose)
            weakref.finalize(self, loop_thread.stop, wait=False)  # if it is never closed
            self._connections.setdefault(process, (client, loop_thread))
        return self._connections[process]
