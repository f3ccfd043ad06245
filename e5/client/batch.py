"""Any number of texts of one side -> requests of one service, and their vectors back in order.

Cuts them, names texts in the caller's numbering, and holds the service to one model. Does no IO,
and knows nothing of HTTP, tokens or of how many requests are under way at a time.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from e5.client.prediction import RemoteAnswer
from e5.client.wire import Steps
from e5.errors import InputError, RequestTooLargeError, ServiceError, TextError, quoted
from e5.prompts import resolve_task
from e5.texts import check_flag, check_task
from e5.vectors import check_dimensions

# Of one request. 256 vectors of 4096 dimensions are 5.6 MB in base64; from 6 MiB on Cog puts an
# answer into a file. 50,000 characters are some 12,000 tokens, three full forwards on a GPU.
REQUEST_TEXTS = 256
REQUEST_CHARACTERS = 50_000
# Requests of one call at a time: while one is computed, one is tokenised, one answered and one on
# its way. Even at four tokens a character they fit into the service's queue of a million tokens.
AT_A_TIME = 4


@dataclass(frozen=True)
class Options:
    """How a caller wants texts embedded: the arguments of `Encoder`, not checked yet."""

    task: str
    symmetric: bool
    normalize: bool
    dimensions: int | None
    truncate: bool


class OneModel:
    """Asks a service, and takes answers of the model that gave the first one only.

    Attributes:
        first: the first answer, with a whole vector; None before it.
    """

    def __init__(self, embed: Callable[[Mapping[str, object]], Steps[RemoteAnswer]]) -> None:
        """`embed` asks the service."""
        self.first: RemoteAnswer | None = None
        self._embed = embed
        self._lock = threading.Lock()

    def identity(self) -> Steps[RemoteAnswer]:
        """The first answer: the name of the model, and a whole vector."""
        if self.first is None:
            yield from self.ask({"documents": ["a"], "encoding_format": "base64"})
        assert self.first is not None
        return self.first

    def ask(self, inputs: Mapping[str, object]) -> Steps[RemoteAnswer]:
        """One request, answered by the model that answered the first.

        Raises:
            ServiceError: by another one.
        """
        answer = yield from self._embed(inputs)
        with self._lock:
            first = self.first = self.first or answer
        if answer.model != first.model:
            raise ServiceError(
                f"the service changed its model in between, from {quoted(first.model)} to "
                f"{quoted(answer.model)}; embed everything again with a new client, because "
                "vectors of both cannot be compared."
            )
        return answer


class Batch:
    """The texts of one call.

    Attributes:
        parts: the rows of each request, in order.
        vectors: float32 `[num_texts, dimensions]`; a part's rows hold nothing before `fill`.
    """

    def __init__(
        self,
        model: OneModel,
        whole: RemoteAnswer,
        field: str,
        texts: Sequence[str],
        options: Options,
    ) -> None:
        """Cut into requests.

        Args:
            model: answers them.
            whole: its first answer.
            field: `queries` or `documents`.
            texts: checked.
            options: for all of them.

        Raises:
            InputError: for an option that cannot be used.
        """
        width = whole.vectors.shape[1]
        check_dimensions(options.dimensions, width)
        self._model, self._field, self._texts = model, field, texts
        self._inputs: dict[str, object] = {
            "task": check_task(options.task),
            "symmetric": check_flag(options.symmetric, "symmetric"),
            "normalize": check_flag(options.normalize, "normalize"),
            "truncate": check_flag(options.truncate, "truncate"),
            "encoding_format": "base64",
        }
        if options.dimensions is not None:  # where the service has a schema, it refuses null
            self._inputs["dimensions"] = width = int(options.dimensions)
        self.vectors = np.empty((len(texts), width), np.float32)
        # The service counts the task with each query; here with documents too, which does no harm.
        task_characters = len(resolve_task(options.task).instruction)
        self.parts = list(cut([task_characters + len(text) for text in texts]))

    def fill(self, part: slice) -> Steps[None]:
        """Compute these rows of `vectors`.

        Raises:
            E5Error: of the service; about a text, in the numbering of the whole batch.
        """
        try:
            answer = yield from self._model.ask({**self._inputs, self._field: self._texts[part]})
        except (InputError, TextError) as error:
            raise _renumbered(error, part.start) from error
        except RequestTooLargeError:  # the service was told to take less at a time
            if part.stop - part.start == 1:
                raise
        else:
            if answer.vectors.shape != self.vectors[part].shape:
                raise ServiceError(
                    f"the service answered vectors of shape {answer.vectors.shape} instead of "
                    f"{self.vectors[part].shape}; check what stands between here and it."
                )
            self.vectors[part] = answer.vectors
            return
        middle = (part.start + part.stop) // 2
        yield from self.fill(slice(part.start, middle))
        yield from self.fill(slice(middle, part.stop))


def cut(lengths: Sequence[int]) -> Iterator[slice]:
    """Consecutive texts, as many as one request may hold; at least one.

    Args:
        lengths: characters of each text, with its task.

    Example:
        >>> list(cut([30_000, 20_000, 1, 60_000]))
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
