"""Operations on the model's vectors: dimensions, L2 norm, fewer bits, base64, cosine scores.

All are pure numpy on float32 `[num_texts, dimensions]`.
"""

import base64
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from e5.errors import InputError, quoted, shortened

Vectors: TypeAlias = NDArray[np.float32]


def check_dimensions(dimensions: int | None, most: int | None) -> None:
    """Raise an InputError unless `dimensions` is None, which means all, or from 1 to `most`.

    If `most` is None, because it is not known yet, any number from 1 on passes.

    Example:
        >>> check_dimensions(5000, 4096)
        Traceback (most recent call last):
        e5.errors.InputError: dimensions: received 5000; use 1 to 4096.
    """
    whole = isinstance(dimensions, int | np.integer) and not isinstance(dimensions, bool)
    if dimensions is not None and not (whole and 1 <= dimensions <= (most or dimensions)):
        remedy = f"use 1 to {most}" if most else "use 1 or more"
        raise InputError("dimensions", shortened(repr(dimensions)), remedy)


def finish(vectors: Vectors, dimensions: int | None, *, normalize: bool) -> Vectors:
    """Keep the first `dimensions` of each vector, then L2-normalise if asked; zeros stay zeros.

    Example:
        >>> finish(np.array([[3, 4, 12]], np.float32), 2, normalize=True)
        array([[0.6, 0.8]], dtype=float32)
    """
    vectors = vectors[:, :dimensions]
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(norms == 0, 1, norms)
    return vectors


def as_int8(vectors: Vectors) -> NDArray[np.int8]:
    """Each vector scaled so that its largest element is 127, and rounded: cosines hardly change.

    Example:
        >>> as_int8(np.array([[1, -0.5, 0, 0.25]], np.float32))
        array([[127, -64,   0,  32]], dtype=int8)
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    scaled = vectors / np.where(largest == 0, 1, largest)  # from -1 to 1
    rounded: NDArray[np.int8] = np.rint(127 * scaled).astype(np.int8)
    return rounded


def as_bits(vectors: Vectors) -> NDArray[np.uint8]:
    """One bit for each element, 1 if it is above 0; eight to a byte, the first in the highest bit.

    Example:
        >>> as_bits(np.array([[1, -0.5, 0, 0.25]], np.float32))
        array([[144]], dtype=uint8)
    """
    return np.packbits(vectors > 0, axis=1)


def encode_base64(vector: Vectors) -> str:
    """One vector as little-endian float32 in base64, as in OpenAI's API.

    Example:
        >>> encode_base64(np.array([1.0], np.float32)), decode_base64(["AACAPw=="])
        ('AACAPw==', array([[1.]], dtype=float32))
    """
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def decode_base64(vectors: Sequence[str]) -> Vectors:
    """Vectors that were written by `encode_base64`, as an array that may be written to.

    Raises:
        ValueError: for texts that are not base64, or not of one length.
    """
    rows = [base64.b64decode(text, validate=True) for text in vectors]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the vectors have different lengths, or there are none")
    # `astype` copies what `frombuffer` gives read-only.
    return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1).astype(np.float32)


def cosine_scores(queries: Vectors, documents: Vectors) -> Vectors:
    """Cosine x 100 of every query with every document, `[num_queries, num_documents]`.

    Example:
        >>> cosine_scores(np.array([[2, 0]], np.float32), np.array([[1, 0], [0, 5]], np.float32))
        array([[100.,   0.]], dtype=float32)
    """
    if not (len(queries) and len(documents)):  # most requests have one side only
        return np.empty((len(queries), len(documents)), np.float32)
    units = [finish(side, None, normalize=True) for side in (queries, documents)]
    return np.clip(units[0] @ units[1].T, -1, 1) * np.float32(100)


def similarity(queries: Vectors, documents: Vectors) -> Vectors:
    """`cosine_scores`, also for a single vector `[dimensions]` on either side.

    Raises:
        InputError: for vectors of different dimensions, or values that are not numbers.
    """
    queries, documents = _as_rows(queries, "queries"), _as_rows(documents, "documents")
    if queries.ndim != 2 or queries.shape[1:] != documents.shape[1:]:
        received = f"vectors of shape {documents.shape} for queries of {queries.shape}"
        raise InputError("documents", received, "embed both with the same dimensions")
    return cosine_scores(queries, documents)


def _as_rows(vectors: object, field: str) -> Vectors:
    try:
        rows = np.atleast_2d(np.asarray(vectors))
        if rows.dtype.kind not in "fiu":
            raise ValueError
    except ValueError as error:  # not all of one length, or no numbers
        remedy = "send float32 vectors, as encode_query and encode_document return them"
        raise InputError(field, quoted(vectors), remedy) from error
    return rows
