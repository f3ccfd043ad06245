"""Vectors as they are stored: float32, float16, int8 or one bit a dimension; and back.

int8 and one bit are `as_int8` and `as_bits`: a vector's direction is kept, its length is not.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from e5.vectors import Vectors, as_bits, as_int8

Dtype = Literal["float32", "float16", "int8", "binary"]
StoredVectors = NDArray[Any]


def encode_vectors(vectors: Vectors, dtype: Dtype) -> StoredVectors:
    """Vectors as they are stored; `inf` in a row that float16 cannot hold.

    Args:
        vectors: float32 `[num_vectors, dimensions]`; for "binary" dimensions are a multiple of 8.
        dtype: of the stored vectors.

    Returns:
        `[num_vectors, dimensions]`; for "binary" uint8 `[num_vectors, dimensions / 8]`.

    Example:
        >>> vectors = np.array([[0.5, -1, 0, 0, 0, 0, 0, 0.25]], np.float32)
        >>> encode_vectors(vectors, "int8").tolist(), encode_vectors(vectors, "binary").tolist()
        ([[64, -127, 0, 0, 0, 0, 0, 32]], [[129]])
    """
    if dtype == "binary":
        return as_bits(vectors)
    if dtype == "int8":
        return as_int8(vectors)
    with np.errstate(over="ignore"):
        rounded: StoredVectors = vectors.astype(dtype)
    return rounded


def decode_vectors(stored: StoredVectors, dtype: Dtype) -> Vectors:
    """Stored vectors as float32 `[num_vectors, dimensions]`; bits become 1 and -1.

    Example:
        >>> decode_vectors(np.array([[129]], np.uint8), "binary").tolist()
        [[1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0]]
    """
    if dtype == "binary":
        stored = np.unpackbits(stored, axis=1) * 2.0 - 1
    vectors: Vectors = stored.astype(np.float32)
    return vectors
