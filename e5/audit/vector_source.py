"""What computes the vectors that hypotheses would give; and an encoder, which needs no torch."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from e5.audit.hypotheses import Computation
from e5.encoder import Encoder
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK, E5_PROMPTS, Prompts, around_query
from e5.vectors import Vectors, finish

PROBE = "what is snow"  # a query that is embedded in two ways
_SAME = 0.999  # the least cosine of vectors of one prompt, in 16 bits


class VectorSource(Protocol):
    """Computes vectors as a hypothesis would have made them.

    Attributes:
        prompts: the checkpoint's.
        dimensions: dimensions of a whole vector.
        rounding: how far the source's own rounding takes a vector from the exact one, as 1 minus
            their cosine.
    """

    prompts: Prompts
    dimensions: int
    rounding: float

    def can(self, computation: Computation) -> bool:
        """Whether the source can compute this."""

    def compute(self, computations: Sequence[Computation]) -> list[Vectors]:
        """For each computation its vectors, float32 `[num_vectors, dimensions]`.

        There is one, or one for each length to which the text may have been padded.
        """

    def forget(self) -> None:
        """Forget the vectors that were computed, which sources keep."""


class EncoderSource:
    """An encoder, such as a `Client`: computes the hypotheses about prompts and texts."""

    def __init__(self, encoder: Encoder, *, prompts: Prompts = E5_PROMPTS) -> None:
        """Use an encoder whose checkpoint has these prompts."""
        self._encoder, self.prompts = encoder, prompts
        self.dimensions, self.rounding = encoder.dimensions, 2e-5
        self._vectors: dict[str, Vectors] = {}

    @classmethod
    def checked(cls, encoder: Encoder, task: str = DEFAULT_TASK) -> "EncoderSource":
        """Use an encoder that gives queries the usual prompt.

        Raises:
            InputError: if it gives another one, or cannot be asked; the field is `reference`.
        """
        before, after = around_query(task)
        prompt = f"{before}{PROBE}{after}"
        vectors = [encoder.encode_query(PROBE, task=task), encoder.encode_document(prompt)]
        query, document = finish(np.array(vectors), None, normalize=True)
        if query @ document < _SAME:
            remedy = "set E5_WEIGHTS to its checkpoint instead"
            raise InputError("reference", "a service with prompts of its own", remedy)
        return cls(encoder)

    def can(self, computation: Computation) -> bool:
        """Whether only the text and its prompt differ from the right ones."""
        plain = Computation(computation.prefix, computation.text, computation.suffix)
        return computation == plain

    def compute(self, computations: Sequence[Computation]) -> list[Vectors]:
        """See `VectorSource.compute`; a prompt is sent as a document, which gets none."""
        prompts = [each.prompt for each in computations]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._vectors]
        if new:
            vectors = self._encoder.encode_document(new)
            self._vectors |= {prompt: v[None] for prompt, v in zip(new, vectors, strict=True)}
        return [self._vectors[prompt] for prompt in prompts]

    def forget(self) -> None:
        """See `VectorSource.forget`."""
        self._vectors.clear()
