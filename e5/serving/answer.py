"""The answer to a request: as arrays for this package, and in the shape that Cog publishes.

Cog's static parser reads the source of `Output` and `Usage` to publish the schema, so both use
plain types. Knows nothing of how a request is checked or how vectors are computed.
"""

import asyncio
import base64
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from e5.vectors import Vectors

FEW_NUMBERS = 50_000  # they take the interpreter 25 ms in all


class Usage(BaseModel):
    """Tokens read of each text, and whether it was cut; in the order of the vectors."""

    tokens: list[int]
    truncated: list[bool]


@dataclass(frozen=True)
class Answer:
    """What the service computed for one request.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, queries first, then documents.
        scores: float32 `[num_queries, num_documents]`, cosine x 100; may be empty.
        usage: tokens read of each text, and whether it was cut.
        model: name and fingerprint of the model.
        metrics: `queue_ms`, `forward_ms`, `tokens` and `batch_texts`.
    """

    vectors: Vectors
    scores: Vectors
    usage: Usage
    model: str
    metrics: dict[str, float]

    @property
    def num_numbers(self) -> int:
        """In vectors and scores together."""
        return self.vectors.size + self.scores.size


class Output(BaseModel):
    """The answer. Queries come first, then documents, each in the order given."""

    embeddings: Optional[list[list[float]]] = None
    embeddings_base64: Optional[list[str]] = None
    score: Optional[float] = None
    scores: Optional[list[list[float]]] = None
    usage: Usage
    model: str

    @classmethod
    def of(cls, answer: Answer, *, encoding_format: str) -> "Output":
        """Build the output without validation: its parts are known, and may be millions of floats.

        Args:
            answer: the service's answer.
            encoding_format: `float` or `base64`.
        """
        as_base64 = encoding_format == "base64"
        vectors, scores = answer.vectors, answer.scores
        return cls.model_construct(
            embeddings=None if as_base64 else rows_of(vectors),
            embeddings_base64=[encode_base64(row) for row in vectors] if as_base64 else None,
            score=nine_digits(scores).item() if scores.size == 1 else None,
            scores=rows_of(scores) if scores.size else None,
            usage=answer.usage,
            model=answer.model,
        )

    def model_dump(self, **_: Any) -> "OrderedDict[str, Any]":
        """The answer as plain data, in a type that Cog passes on without reading it.

        Cog visits each element of lists and dicts in Python: 13 us a float, 100 ms for two vectors
        of the 7B model. It passes subclasses of dict to its JSON encoder as they are.
        """
        return OrderedDict(self.__dict__, usage=self.usage.__dict__)


class Outputs:
    """Makes outputs so that other requests go on meanwhile.

    A large one is made in a thread, and in numbers one at a time until Cog has written it: that
    takes the interpreter 0.4 us a number, and several at once would leave nobody else a turn.
    """

    def __init__(self) -> None:
        """Nothing is being written."""
        self._turn = asyncio.Semaphore(1)

    async def of(self, answer: Answer, *, encoding_format: str) -> Output:
        """`Output.of`, when there is room for it."""
        make = partial(Output.of, answer, encoding_format=encoding_format)
        if answer.num_numbers < FEW_NUMBERS:
            return make()
        if encoding_format == "base64":
            return await asyncio.to_thread(make)
        await self._turn.acquire()
        try:
            output = await asyncio.to_thread(make)
        except BaseException:
            self._turn.release()
            raise
        release = partial(asyncio.get_running_loop().call_soon_threadsafe, self._turn.release)
        weakref.finalize(output, release).atexit = False  # once Cog lets go of it, or the caller
        return output


class Row(list[float]):
    """Numbers that json's encoder asks for by a call, so that other threads get a turn.

    The encoder is C and keeps the interpreter until a whole list is written: a second for a million
    numbers. It takes a plain list as it is, but iterates over one of a subclass.
    """

    def __iter__(self) -> Iterator[float]:
        """Between two instructions of Python, such as these, the interpreter can go to another."""
        return super().__iter__()


def rows_of(matrix: Vectors) -> list[list[float]]:
    """A float32 matrix as a `Row` for each of its rows, of numbers as `nine_digits` gives them.

    Example:
        >>> rows_of(np.array([[0.1, 2.0]], np.float32))
        [[0.100000001, 2.0]]
    """
    return [Row(row.tolist()) for row in nine_digits(matrix)]


def encode_base64(vector: Vectors) -> str:
    """Little-endian float32 in base64, as in OpenAI's API.

    Example:
        >>> encode_base64(np.array([1.0], np.float32))
        'AACAPw=='
    """
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def nine_digits(values: Vectors) -> NDArray[np.float64]:
    """Float32 values as float64, rounded to nine significant digits.

    Nine digits identify each float32, so a reader gets the same float32 back. As JSON they take two
    thirds of the bytes, and half of the encoder's time, of the exact float64.

    Example:
        >>> nine_digits(np.array([0.1], np.float32)).tolist(), float(np.float32(0.1))
        ([0.100000001], 0.10000000149011612)
    """
    exact = values.astype(np.float64)
    exponent = np.floor(np.log10(np.abs(exact), where=exact != 0, out=np.zeros_like(exact)))
    scale = 10.0 ** (8 - exponent)
    rounded: NDArray[np.float64] = np.round(exact * scale) / scale
    return rounded
