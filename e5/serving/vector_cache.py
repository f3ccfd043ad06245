"""Vectors of texts that were asked for before, so that they need not be computed again.

The token ids are the key: in one process a vector depends on nothing else.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from e5.vectors import Vectors

# Of a vector's key and of Python's objects around both: 220 to 335 bytes were measured, the most
# while the table grows.
ENTRY_BYTES = 384


def key_of(token_ids: Sequence[int]) -> bytes:
    """The key of a text: a hash of 256 bits, so that no two texts have the same."""
    return blake2b(array("I", token_ids).tobytes(), digest_size=32).digest()


class VectorCache:
    """The vectors of the texts that were asked for last. Any thread may use it.

    Example:
        >>> cache, row = VectorCache(max_bytes=1000, dimensions=2), np.ones((1, 2), np.float32)
        >>> cache.keep([b"snow"], row), cache.keep([b"rain"], row), cache.keep([b"hail"], row)
        (None, None, None)
        >>> cache.find([b"snow", b"rain"]), cache.nbytes
        ({1: array([1., 1.], dtype=float32)}, 784)
    """

    def __init__(self, max_bytes: int, dimensions: int) -> None:
        """Begin empty; all entries together never take more than `max_bytes`."""
        self._entry_bytes = ENTRY_BYTES + 4 * dimensions
        self._max_entries = max_bytes // self._entry_bytes
        self._vectors = OrderedDict[bytes, bytes]()  # the least recently used one is the first
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The number of bytes that the entries take."""
        return len(self._vectors) * self._entry_bytes

    def find(self, keys: Sequence[bytes]) -> dict[int, Vectors]:
        """The vectors that are kept, by the positions of their keys: float32 `[dimensions]`."""
        found = {}
        with self._lock:
            for position, key in enumerate(keys):
                if (vector := self._vectors.get(key)) is not None:
                    self._vectors.move_to_end(key)
                    found[position] = np.frombuffer(vector, np.float32)
        return found

    def keep(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Keep a vector for each key, instead of those that were not used for the longest time.

        A vector that is there already stays, so that equal texts get equal bits.
        """
        with self._lock:
            for key, vector in zip(keys, vectors, strict=True):
                if key not in self._vectors:
                    self._vectors[key] = vector.tobytes()
                self._vectors.move_to_end(key)
                if len(self._vectors) > self._max_entries:
                    self._vectors.popitem(last=False)
