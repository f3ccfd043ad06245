"""`Client`: an `Encoder` whose model runs elsewhere.

Checks texts by the same rule as `Embedder`, cuts any number of them into requests, sends a few at a
time and puts the vectors back in order. Knows nothing of HTTP, models or tokens: the service
builds the prompts and computes, `Cog` carries the inputs of one request there.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm

from e5.client.cog import Cog
from e5.client.prediction import Embedded
from e5.errors import InputError, RequestTooLargeError, ServiceError, TextError, quoted
from e5.prompts import resolve_task
from e5.texts import check_task, check_texts
from e5.vectors import Vectors, check_dimensions, similarity

# Of one request. 256 vectors of 4096 dimensions are 5.6 MB in base64; from 6 MiB on Cog puts an
# answer into a file. 50,000 characters are some 12,000 tokens, three full forwards on a GPU.
REQUEST_TEXTS = 256
REQUEST_CHARACTERS = 50_000
# Requests at a time: while one is computed, one is tokenised, one answered and one on its way.
# Even at four tokens a character they fit into the service's queue of a million tokens.
AT_A_TIME = 4


class Client:
    """The same vectors as from `Embedder`, computed by a running service. An `Encoder`.

    May be shared by threads. Loopback addresses are reached directly; for all others the proxy and
    certificate variables of the environment count (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).

    What fails for the moment is sent again, with growing pauses: a lost or refused connection, no
    free slot, a full queue, a service that is still starting. Embedding a text twice does no harm.

    Example, with a server of the built-in checkpoint on this port:
        >>> with Client("http://127.0.0.1:5000") as client:
        ...     client.encode_query(["how much protein should a female eat"]).shape
        (1, 192)
    """

    def __init__(self, url: str, *, deadline: float = 300.0) -> None:
        """Connects when it is first used.

        Args:
            url: of a Cog server that runs this service.
            deadline: seconds in which each request (at most 256 texts) must be answered, sending it
                again included. The default lets a 7B model load, or a full queue empty; a wrong
                port is warned about after two seconds.

        Raises:
            InputError: for a URL or a deadline that cannot be used.
            ServiceError: for a proxy in the environment that cannot be used.
        """
        self._service = Cog(url, deadline=deadline)
        self._first: Embedded | None = None
        self._lock = threading.Lock()

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
        self._service.close()

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
        return self._encode(
            "queries",
            queries,
            task=task,
            symmetric=False,
            normalize=normalize,
            dimensions=dimensions,
            truncate=truncate,
        )

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
        return self._encode(
            "documents",
            documents,
            task=task,
            symmetric=symmetric,
            normalize=normalize,
            dimensions=dimensions,
            truncate=truncate,
        )

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """See `Encoder.similarity`; computed here."""
        return similarity(queries, documents)

    def _encode(
        self,
        field: str,
        texts: str | Sequence[str],
        *,
        task: str,
        symmetric: bool,
        normalize: bool,
        dimensions: int | None,
        truncate: bool,
    ) -> Vectors:
        """Embed the texts of one side, in as many requests as they need."""
        checked, _ = check_texts(texts, field)
        check_dimensions(dimensions, self.dimensions)
        width = self.dimensions if dimensions is None else int(dimensions)
        inputs: dict[str, object] = {
            "task": check_task(task),
            "symmetric": _check_flag(symmetric, "symmetric"),
            "normalize": _check_flag(normalize, "normalize"),
            "truncate": _check_flag(truncate, "truncate"),
            "encoding_format": "base64",
        }
        if dimensions is not None:  # where the service has a schema, it refuses null
            inputs["dimensions"] = width
        vectors = np.empty((len(checked), width), np.float32)

        def fill(part: slice) -> None:
            """Compute these rows of `vectors`."""
            try:
                rows = self._ask({**inputs, field: checked[part]}).vectors
            except RequestTooLargeError:  # the service was told to take less at a time
                middle = (part.start + part.stop) // 2
                if middle == part.start:
                    raise
                fill(slice(part.start, middle))
                fill(slice(middle, part.stop))
                return
            except (InputError, TextError) as error:
                raise _renumbered(error, part.start) from error
            if rows.shape != vectors[part].shape:
                raise ServiceError(
                    f"the service answered vectors of shape {rows.shape} instead of "
                    f"{vectors[part].shape}; check what stands between here and it."
                )
            vectors[part] = rows

        # The service counts the task with each query; here with documents too, which does no harm.
        task_characters = len(resolve_task(task).instruction)
        parts = list(_cut([task_characters + len(text) for text in checked]))
        pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="e5-client")
        try:
            filled = [pool.submit(fill, part) for part in parts]
            with tqdm(
                total=len(checked), desc="embed", unit="text", delay=2, leave=False, disable=None
            ) as bar:
                for part, future in zip(parts, filled, strict=True):
                    future.result()  # in order, so that the first text that fails is named
                    bar.update(part.stop - part.start)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return vectors[0] if isinstance(texts, str) else vectors

    def _identity(self) -> Embedded:
        """The first answer: the name of the model, and a whole vector."""
        if self._first is None:
            self._ask({"documents": ["a"], "encoding_format": "base64"})
        assert self._first is not None
        return self._first

    def _ask(self, inputs: Mapping[str, object]) -> Embedded:
        """One request, answered by the model that answered the first.

        Raises:
            ServiceError: by another one.
        """
        answer = self._service.embed(inputs)
        with self._lock:
            first = self._first = self._first or answer
        if answer.model != first.model:
            raise ServiceError(
                f"the service changed its model in between, from {quoted(first.model)} to "
                f"{quoted(answer.model)}; embed everything again with a new Client, because "
                "vectors of both cannot be compared."
            )
        return answer


def _check_flag(value: object, field: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise InputError(field, quoted(value), "send true or false")
    return bool(value)


def _cut(lengths: Sequence[int]) -> Iterator[slice]:
    """Consecutive texts, as many as one request may hold; at least one.

    Args:
        lengths: characters of each text.

    Example:
        >>> list(_cut([30_000, 20_000, 1, 60_000]))
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    start = characters = 0
    for position, length in enumerate(lengths):
        characters += length
        full = position - start == REQUEST_TEXTS or characters > REQUEST_CHARACTERS
        if full and position > start:
            yield slice(start, position)
            start, characters = position, length
    if lengths:
        yield slice(start, len(lengths))


def _renumbered(error: InputError | TextError, start: int) -> InputError | TextError:
    """The same error in the caller's numbering; the request's texts begin at `start`.

    Example:
        >>> error = InputError("queries[5]", "a text of 9 tokens", "shorten it")
        >>> str(_renumbered(error, 4096))
        'queries[4101]: received a text of 9 tokens; shorten it.'
    """
    found = re.match(r"(queries|documents)\[(\d{1,9})\]", str(error))
    if found is None:
        return type(error).from_sentence(str(error))
    position = start + int(found[2])
    field = f"{found[1]}[{position}]"
    if isinstance(error, TextError):
        return error.about(position, field)
    return type(error).from_sentence(field + str(error)[found.end() :])
