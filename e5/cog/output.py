"""The answer in the shape that Cog publishes, and how large answers are handed to Cog.

Cog's static parser reads the source of `Output` and `Usage` to publish the schema, so both use
plain types, written out.
"""

import asyncio
import weakref
from functools import partial
from typing import Any, Optional

import numpy as np
from pydantic import BaseModel

from e5.cog.json_fields import JsonFields
from e5.serving import Answer
from e5.vectors import encode_base64

FEW_NUMBERS = 50_000  # Cog reads so many in 5 ms


class Usage(BaseModel):
    """The number of tokens of each text, and whether it was truncated, in the vectors' order."""

    tokens: list[int]
    truncated: list[bool]


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
        """Build it without validation: `embeddings` and `scores` are arrays, not lists."""
        as_base64 = encoding_format == "base64"
        vectors, scores = answer.vectors, answer.scores
        return cls.model_construct(
            embeddings=None if as_base64 else np.ascontiguousarray(vectors),
            embeddings_base64=[encode_base64(row) for row in vectors] if as_base64 else None,
            score=scores[0, 0] if scores.size == 1 else None,
            scores=scores if scores.size else None,
            usage=Usage.model_construct(tokens=answer.tokens, truncated=answer.truncated),
            model=answer.model,
        )

    def model_dump(self, **_: Any) -> JsonFields:
        """The answer in a type that Cog passes on to `json.dumps` without reading it.

        Cog visits each element of lists and dicts in Python: 13 us a float, 100 ms for two vectors
        of the 7B model. It passes subclasses of dict as they are.
        """
        return JsonFields(self.__dict__, usage=self.usage.__dict__)


async def build_output(
    answer: Answer, *, encoding_format: str, large_outputs: asyncio.Semaphore
) -> Output:
    """`Output.of`, without blocking other requests for long.

    Cog parses the JSON once more, 0.1 us a number, and blocks this process meanwhile. So it gets
    large outputs in numbers one at a time: each holds `large_outputs` until Cog has dropped it.
    """
    build = partial(Output.of, answer, encoding_format=encoding_format)
    if answer.num_floats < FEW_NUMBERS:
        return build()
    if encoding_format == "base64":
        return await asyncio.to_thread(build)
    output = build()
    await large_outputs.acquire()
    schedule = asyncio.get_running_loop().call_soon_threadsafe
    weakref.finalize(output, schedule, large_outputs.release).atexit = False
    return output
