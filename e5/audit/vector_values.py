"""Vectors as files and endpoints hold them -> numbers: lists, texts of databases, base64, bytes.

Nothing is rounded or scaled. What kind of numbers bytes are is found by reading all of them.
"""

import io
import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e5.errors import shortened
from e5.vectors import Vectors

# The kinds of numbers that bytes may be, the likeliest first.
BYTE_TYPES = ("<f4", "<f8", "<f2", ">f4", ">f8")
# Numbers of a vector lie between these, or are 0; bytes that are read as another kind do not.
SMALLEST, LARGEST = 1e-8, 1e4
MIN_PLAUSIBLE = 0.99  # the share of a vector's numbers that must lie there
MIN_BYTES = 16  # of a vector of int8 or bits

_WRAPPED = re.compile(r"(?:[a-z]+\.)?(?:array|tensor)\((\[.*\]).*\)", re.DOTALL)
_SPARSE = re.compile(r"\{([^{}]*)\}/(\d{1,6})")  # pgvector's sparsevec
_SEPARATOR = re.compile(r"[\s,;|]+")


def read_vectors(values: Sequence[Any]) -> tuple[Vectors, dict[int, str]]:
    r"""The vectors of several rows, as far as they can be read and have as many numbers as most.

    A value may be a list of numbers; JSON; what PostgreSQL, pgvector and numpy print; base64 or
    bytes of float32, float64, float16 or int8; or an object that holds one list.

    Returns:
        float32 `[num_vectors, dimensions]`, and why the other rows have none, by their positions.

    Example:
        >>> vectors, problems = read_vectors([[1, 2], "[0.5, 1]", "{3,4}", "AAAAPwAAgD8=", None])
        >>> vectors.tolist(), problems
        ([[1.0, 2.0], [0.5, 1.0], [3.0, 4.0], [0.5, 1.0]], {4: 'no vector'})
    """
    parsed = [_parsed(value) for value in values]
    contents = [each for each in parsed if isinstance(each, bytes)]
    kind = _kind_of(contents) if contents else ""
    found = [_from_bytes(each, kind) if isinstance(each, bytes) else each for each in parsed]
    problems = {i: each for i, each in enumerate(found) if isinstance(each, str)}
    arrays = {i: each for i, each in enumerate(found) if isinstance(each, np.ndarray)}
    counts = Counter(len(array) for array in arrays.values())
    dimensions = max(counts, key=lambda size: (counts[size], size), default=0)
    for i, array in arrays.items():
        if len(array) != dimensions:
            problems[i] = f"a vector of {len(array)} numbers, where others have {dimensions}"
    kept = [array for i, array in arrays.items() if i not in problems]
    with np.errstate(over="ignore"):
        vectors = np.array(kept, np.float32).reshape(len(kept), dimensions)
    return vectors, dict(sorted(problems.items()))


def _parsed(value: Any) -> NDArray[np.float64] | bytes | str:
    """The numbers of a value, or the bytes that hold them; or the reason why it has none."""
    if isinstance(value, bytes):
        return _parsed_bytes(value)
    if isinstance(value, str):
        return _parsed_text(value.strip())
    if isinstance(value, dict):
        inner = [each for each in value.values() if isinstance(each, list)]
        return _parsed(inner[0]) if len(inner) == 1 else "an object without one list of numbers"
    if value is None or (isinstance(value, list) and not value):
        return "no vector"
    if not isinstance(value, list):
        return f"{type(value).__name__}, not a vector"
    if all(isinstance(each, list) for each in value):
        return _parsed(value[0]) if len(value) == 1 else f"{len(value)} vectors, not one"
    if any(each is None or isinstance(each, bool | list | dict | str) for each in value):
        return "a list that does not hold numbers alone"
    try:
        return np.array([float(each) for each in value])
    except (TypeError, OverflowError):  # dates; a whole number of 400 digits
        return "a list that does not hold numbers alone"


def _parsed_text(text: str) -> NDArray[np.float64] | bytes | str:
    if not text:
        return "no vector"
    if found := _WRAPPED.fullmatch(text):
        text = found[1]
    if "..." in text:
        return "a vector that was cut short by '...' when it was printed"
    if re.fullmatch("[01]{8,}", text):  # bits, as pgvector writes them
        return np.array([int(bit) for bit in text], np.float64)
    if text.startswith("\\x") and re.fullmatch(r"(?:[0-9a-fA-F]{2})+", text[2:]):
        return bytes.fromhex(text[2:])  # PostgreSQL's bytea
    if found := _SPARSE.fullmatch(text):
        return _sparse(found[1], int(found[2]))
    if text[0] in '[{"':
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            text = text.strip("[](){}")
        else:
            return _parsed(value)
    try:
        return np.array([float(part) for part in _SEPARATOR.split(text.strip(" ,\n"))])
    except ValueError:
        pass
    try:
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        return _parsed_bytes(b64decode(standard + "=" * (-len(standard) % 4), validate=True))
    except ValueError:  # not base64, or not even ASCII
        return f"{shortened(text, 30)!r}, which is no vector"


def _sparse(elements: str, size: int) -> NDArray[np.float64] | str:
    """`{1:0.5,3:2}/4` without its braces; the first index is 1."""
    vector = np.zeros(size)
    try:
        for element in filter(None, elements.split(",")):
            index, _, number = element.partition(":")
            if not 0 < int(index) <= size:
                raise ValueError("an index beyond the vector")
            vector[int(index) - 1] = float(number)
    except ValueError:
        return "a sparse vector that cannot be read"
    return vector


def _parsed_bytes(content: bytes) -> NDArray[np.float64] | bytes | str:
    if content.startswith(b"\x93NUMPY"):
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return "an array of numpy that cannot be read"
        return _parsed(array.tolist())
    if content[:1] in (b"[", b"{"):
        try:
            return _parsed(json.loads(content))
        except (ValueError, RecursionError):
            pass
    return content or "no vector"


def _kind_of(contents: Sequence[bytes]) -> str:
    """The kind of numbers that all the bytes are, as numpy names it; "" for none."""
    for kind in BYTE_TYPES:
        size = np.dtype(kind).itemsize
        whole = [content for content in contents if len(content) % size == 0]
        if 2 * len(whole) > len(contents):
            with np.errstate(invalid="ignore"):
                numbers = np.abs(np.frombuffer(b"".join(whole), kind).astype(np.float64))
            plausible = (numbers == 0) | ((numbers > SMALLEST) & (numbers < LARGEST))
            if plausible.mean() >= MIN_PLAUSIBLE:
                return kind
    is_int8 = len({len(content) for content in contents}) == 1 and len(contents[0]) >= MIN_BYTES
    return "i1" if is_int8 else ""


def _from_bytes(content: bytes, kind: str) -> NDArray[np.float64] | str:
    if not kind or len(content) % np.dtype(kind).itemsize:
        return f"{len(content)} bytes, which are no numbers of a vector"
    return np.frombuffer(content, kind).astype(np.float64)
