"""The answer in the shape that Cog publishes, and how large answers are handed to Cog.

Cog's static parser reads the source of `Output` and `Usage` to publish the schema, so both use
plain types.
"""

import asyncio
import weakref
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel

from e5.cog.json_fields import JsonFields
from e5.serving.answer import Answer
from e5.vectors import encode_base64

FEW_NUMBERS = 50_000  # they take the interpreter 7 ms in all


class Usage(BaseModel):
    """Tokens read of each text, and whether it was cut; in the order of the vectors."""

    tokens: list[int]
    truncated: list[bool]


class Output(BaseModel):
    """The answer. Queries come first, then documents, each in the order given."""

    embeddings: list[list[float]] | None = None
    embeddings_base64: list[str] | None = None
    score: float | None = None
    scores: list[list[float]] | None = None
    usage: Usage
    model: str

    @classmethod
    def of(cls, answer: Answer, *, encoding_format: str) -> "Output":
        """Build the output without validation: `embeddings` and `scores` stay arrays until written.

        Args:
            answer: the service's answer.
            encoding_format: `float` or `base64`.
        """
        as_base64 = encoding_format == "base64"
        vectors, scores = answer.vectors, answer.scores
        return cls.model_construct(
            embeddings=None if as_base64 else np.ascontiguousarray(vectors),
            embeddings_base64=[encode_base64(row) for row in vectors] if as_base64 else None,
            score=scores[0, 0] if scores.size == 1 else None,
            scores=scores if scores.size else None,
            usage=Usage(tokens=answer.tokens, truncated=answer.truncated),
            model=answer.model,
        )

    def model_dump(self, **_: Any) -> JsonFields:
        """The answer in a type that Cog passes on to `json.dumps` without reading it.

        Cog visits each element of lists and dicts in Python: 13 us a float, 100 ms for two vectors
        of the 7B model. It passes subclasses of dict as they are.
        """
        return JsonFields(self.__dict__, usage=self.usage.__dict__)


class Outputs:
    """Makes outputs so that other requests go on meanwhile.

    Cog reads again what was written, 0.1 us a number, and nothing else runs in this process. So of
    large answers in numbers one at a time is given to it.
    """

    def __init__(self) -> None:
        """Nothing is being written."""
        self._turn = asyncio.Semaphore(1)

    async def of(self, answer: Answer, *, encoding_format: str) -> Output:
        """`Output.of`, when it is its turn."""
        make = partial(Output.of, answer, encoding_format=encoding_format)
        if answer.num_numbers < FEW_NUMBERS:
            return make()
        if encoding_format == "base64":
            return await asyncio.to_thread(make)
        await self._turn.acquire()
        try:
            output = make()
        except BaseException:
            self._turn.release()
            raise
        release = partial(asyncio.get_running_loop().call_soon_threadsafe, self._turn.release)
        weakref.finalize(output, release).atexit = False  # once Cog lets go of it, or the caller
        return output
