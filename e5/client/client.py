"""`Client`: an `Encoder` whose model runs elsewhere.

Checks texts by the same rule as `Embedder`, sends a few requests at a time and waits for all. Knows
nothing of HTTP, models or tokens: the service builds the prompts and computes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tqdm import tqdm

from e5.client.batch import AT_A_TIME, Batch, OneModel, Options
from e5.client.prediction import RemoteAnswer
from e5.client.remote import Remote
from e5.texts import check_texts
from e5.vectors import Vectors, similarity


class Client:
    """The same vectors as from `Embedder`, computed by a running service. An `Encoder`.

    May be shared by threads. Loopback addresses are reached directly; for all others the proxy and
    certificate variables of the environment count (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).

    What fails for the moment is sent again, with growing pauses: a lost or refused connection, no
    free slot, a full queue, a service that is still starting. Embedding a text twice does no harm.
    On Replicate, which bills each prediction, one is created again only if it cannot have begun.

    Example, with a server of the built-in checkpoint on this port:
        >>> with Client("http://127.0.0.1:5000") as client:
        ...     client.encode_query(["how much protein should a female eat"]).shape
        (1, 192)
    """

    def __init__(self, url: str, *, deadline: float = 300.0, api_key: str | None = None) -> None:
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
        self._remote = Remote(url, deadline=deadline, api_key=api_key)
        self._model = OneModel(self._remote.dialect.embed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._remote.close()

    @property
    def name(self) -> str:
        """Of the service's model, asked once. Every later answer must come from the same.

        Raises:
            ServiceError: the service cannot be reached.
        """
        return self._identity().model

    @property
    def dimensions(self) -> int:
        """Of a whole vector, asked once.

        Raises:
            ServiceError: the service cannot be reached.
        """
        return int(self._identity().vectors.shape[1])

    def encode_query(
        self,
        queries: str | Sequence[str],
        *,
        task: str = "web_search_query",
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """See `Encoder.encode_query`.

        Raises:
            TextError: for a text that has no finite vector, or does not fit in memory.
            QueueFullError: more waits at the service than it holds, until the deadline.
            EngineError: the service's engine broke.
            ServiceError: it cannot be reached, or changed its model in between.
        """
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
        """See `Encoder.encode_document`.

        Raises:
            TextError: for a text that has no finite vector, or does not fit in memory.
            QueueFullError: more waits at the service than it holds, until the deadline.
            EngineError: the service's engine broke.
            ServiceError: it cannot be reached, or changed its model in between.
        """
        options = Options(task, symmetric, normalize, dimensions, truncate)
        return self._encode("documents", documents, options)

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """See `Encoder.similarity`; computed here."""
        return similarity(queries, documents)

    def _encode(self, field: str, texts: str | Sequence[str], options: Options) -> Vectors:
        """Embed the texts of one side, in as many requests as they need."""
        checked, _ = check_texts(texts, field)
        batch = Batch(self._model, self._identity(), field, checked, options)
        pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="e5-client")
        try:
            filled = [pool.submit(self._remote.run, batch.fill(part)) for part in batch.parts]
            with tqdm(
                total=len(checked), desc="embed", unit="text", delay=2, leave=False, disable=None
            ) as bar:
                for part, future in zip(batch.parts, filled, strict=True):
                    future.result()  # in order, so that the first text that fails is named
                    bar.update(part.stop - part.start)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return batch.vectors[0] if isinstance(texts, str) else batch.vectors

    def _identity(self) -> RemoteAnswer:
        return self._remote.run(self._model.identity())
