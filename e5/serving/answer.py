"""What comes back for a request: as numbers for those indoors, and in the shape that Cog publishes.

Cog's static parser reads `Output` and `Usage` as text to publish the schema, so both are spelt out
in plain types. Knows nothing of requests, tokens or the model.
"""

import base64
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from e5.vectors import Vectors


class Usage(BaseModel):
    """What was read of each text, in the order of the vectors."""

    tokens: list[int]
    truncated: list[bool]


@dataclass(frozen=True)
class Answer:
    """What the service computed for one request.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, queries first, then documents.
        scores: float32 `[num_queries, num_documents]`, cosine x 100; may be empty.
        usage: what was read of each text.
        model: name and fingerprint of what computed it.
        metrics: `queue_ms`, `forward_ms`, `tokens` and `batch_texts`.
    """

    vectors: Vectors
    scores: Vectors
    usage: Usage
    model: str
    metrics: dict[str, float]


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
        """The answer, built without validation: the parts are ours, and may be millions of floats.

        Args:
            answer: of the service.
            encoding_format: `float` or `base64`.
        """
        as_base64 = encoding_format == "base64"
        vectors, scores = answer.vectors, answer.scores
        return cls.model_construct(
            embeddings=None if as_base64 else nine_digits(vectors).tolist(),
            embeddings_base64=[encode_base64(row) for row in vectors] if as_base64 else None,
            score=nine_digits(scores).item() if scores.size == 1 else None,
            scores=nine_digits(scores).tolist() if scores.size else None,
            usage=answer.usage,
            model=answer.model,
        )

    def model_dump(self, **_: Any) -> "OrderedDict[str, Any]":
        """The answer as plain data, in a shape that Cog hands on unread.

        Cog walks every element of lists and dicts in Python, 13 us a float: 100 ms for two vectors.
        It does not walk subclasses of dict, so an OrderedDict goes to its JSON encoder as it is.
        """
        return OrderedDict(self.__dict__, usage=self.usage.__dict__)


def encode_base64(vector: Vectors) -> str:
    """Little-endian float32 in base64, as in OpenAI's API.

    Example:
        >>> encode_base64(np.array([1.0], np.float32))
        'AACAPw=='
    """
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def nine_digits(values: Vectors) -> NDArray[np.float64]:
    """Float32 as the float64 of nine significant digits, which name each float32 uniquely.

    Read back as float32 they are the same numbers, in two thirds of the bytes and half of the
    encoder's time that the exact float64 would take.

    Example:
        >>> nine_digits(np.array([0.1], np.float32)).tolist(), float(np.float32(0.1))
        ([0.100000001], 0.10000000149011612)
    """
    exact = values.astype(np.float64)
    exponent = np.floor(np.log10(np.abs(exact), where=exact != 0, out=np.zeros_like(exact)))
    scale = 10.0 ** (8 - exponent)
    rounded: NDArray[np.float64] = np.round(exact * scale) / scale
    return rounded
