"""Vectors as they are stored: float32, float16, int8 or one bit a dimension; and back.

int8 is the vector times 127 over its largest element, rounded: its direction is kept, its length
is not. One bit is 1 above 0; eight make a byte, the first dimension in the highest bit. Knows
nothing of files.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from e5.vectors import Vectors

Dtype = Literal["float32", "float16", "int8", "binary"]
Numbers = NDArray[Any]


def encode(vectors: Vectors, dtype: Dtype) -> Numbers:
    """Vectors as stored numbers; `inf` in a row that float16 cannot hold.

    Args:
        vectors: float32 `[num_vectors, dimensions]`; for "binary" dimensions are a multiple of 8.
        dtype: of the stored numbers.

    Returns:
        `[num_vectors, dimensions]`; for "binary" uint8 `[num_vectors, dimensions / 8]`.

    Example:
        >>> encode(np.array([[0.5, -1, 0, 0, 0, 0, 0, 0.25]], np.float32), "int8").tolist()
        [[64, -127, 0, 0, 0, 0, 0, 32]]
        >>> encode(np.array([[0.5, -1, 0, 0, 0, 0, 0, 0.25]], np.float32), "binary").tolist()
        [[129]]
    """
    if dtype == "binary":
        bits: Numbers = np.packbits(vectors > 0, axis=1)
        return bits
    if dtype == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
        whole: Numbers = np.rint(vectors / largest * 127).astype(np.int8)
        return whole
    with np.errstate(over="ignore"):
        rounded: Numbers = vectors.astype(dtype)
    return rounded


def decode(numbers: Numbers, dtype: Dtype) -> Vectors:
    """Stored numbers as float32 vectors; of one bit, 1 and -1.

    Example:
        >>> decode(np.array([[129]], np.uint8), "binary").tolist()
        [[1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0]]
    """
    if dtype == "binary":
        numbers = np.unpackbits(numbers, axis=1) * 2.0 - 1
    vectors: Vectors = numbers.astype(np.float32)
    return vectors
