"""A vector is read in whatever form a file or an endpoint has it, and never as another one."""

import base64
import io
import json
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from e5.audit.vector_values import read_vectors

VECTORS = np.random.default_rng(0).standard_normal((8, 24)).astype(np.float32)


def as_npy(vector: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, vector)
    return content.getvalue()


FORMS = {
    "a list": lambda v: v.tolist(),
    "a list of decimals": lambda v: [Decimal(repr(x)) for x in v.tolist()],
    "a list in a list": lambda v: [v.tolist()],
    "an object": lambda v: {"values": v.tolist(), "dimensions": len(v)},
    "JSON": lambda v: json.dumps(v.tolist()),
    "JSON of an object": lambda v: json.dumps({"embedding": v.tolist()}),
    "JSON in bytes": lambda v: json.dumps(v.tolist()).encode(),
    "JSON in JSON": lambda v: json.dumps(json.dumps(v.tolist())),
    "pgvector": lambda v: f"[{','.join(map(repr, v.tolist()))}]",
    "pgvector's sparsevec": lambda v: (
        "{" + ",".join(f"{i}:{x!r}" for i, x in enumerate(v.tolist(), 1)) + f"}}/{len(v)}"
    ),
    "PostgreSQL's array": lambda v: "{" + ",".join(map(repr, v.tolist())) + "}",
    "PostgreSQL's bytea": lambda v: "\\x" + v.tobytes().hex(),
    "numpy, printed": lambda v: np.array2string(v, threshold=10**6, floatmode="unique"),
    "numpy, printed twice deep": lambda v: np.array2string(v[None], floatmode="unique"),
    "numpy's repr": lambda v: f"array({v.tolist()}, dtype=float32)",
    "torch's repr": lambda v: f"tensor({v.tolist()}, device='cuda:0')",
    "numbers with commas": lambda v: ", ".join(map(repr, v.tolist())),
    "numbers with blanks": lambda v: " ".join(map(repr, v.tolist())),
    "numbers with semicolons": lambda v: ";".join(map(repr, v.tolist())),
    "base64": lambda v: base64.b64encode(v.tobytes()).decode(),
    "base64 for URLs": lambda v: base64.urlsafe_b64encode(v.tobytes()).decode().rstrip("="),
    "bytes": lambda v: v.tobytes(),
    "bytes of float64": lambda v: v.astype("<f8").tobytes(),
    "bytes, big-endian": lambda v: v.astype(">f4").tobytes(),
    "bytes of float64, big-endian": lambda v: v.astype(">f8").tobytes(),
    "npy": as_npy,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("scale", [1.0, 0.02, 30.0])
def test_a_vector_is_read_as_it_was_written(form: Any, scale: float) -> None:
    written = (VECTORS * np.float32(scale)).astype(np.float32)
    vectors, problems = read_vectors([form(vector) for vector in written])
    assert problems == {}
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, written, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.02, 1.0, 13.0])
def test_bytes_of_float16_are_found(scale: float) -> None:
    written = (VECTORS * scale).astype(np.float16)
    vectors, problems = read_vectors([vector.tobytes() for vector in written])
    assert problems == {}
    assert (vectors == written).all()


def test_bytes_that_could_be_two_kinds_of_numbers_are_the_likelier() -> None:
    """Of 5.0 twice in float32 the bytes are also those of a float64 near 2048."""
    vectors, _ = read_vectors([np.full(24, 5.0, np.float32).tobytes()])
    assert vectors.tolist() == [[5.0] * 24]


def test_most_vectors_decide_how_many_numbers_one_has() -> None:
    vectors, problems = read_vectors([[1, 2], [1, 2, 3], [3, 4]])
    assert vectors.tolist() == [[1, 2], [3, 4]]
    assert problems == {1: "a vector of 3 numbers, where others have 2"}


def test_bytes_of_int8_are_found() -> None:
    written = np.random.default_rng(0).integers(-127, 128, (8, 24)).astype(np.int8)
    vectors, problems = read_vectors([base64.b64encode(v.tobytes()).decode() for v in written])
    assert problems == {}
    assert (vectors == written).all()


def test_bits_are_numbers() -> None:
    vectors, problems = read_vectors(["10110000", "00000001"])
    assert problems == {}
    assert vectors.tolist() == [[1, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]


def test_numbers_that_are_not_finite_are_left_to_the_verdict() -> None:
    vectors, problems = read_vectors(["[NaN, 1]", [float("inf"), 1], [1e300, 1]])
    assert problems == {}
    assert vectors[:, 1].tolist() == [1, 1, 1]
    assert not np.isfinite(vectors[:, 0]).any()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "no vector"),
        ("", "no vector"),
        (" ", "no vector"),
        ([], "no vector"),
        ("[]", "no vector"),
        (b"", "no vector"),
        (7, "int, not a vector"),
        (True, "bool, not a vector"),
        ([1, None, 2, 3], "a list that does not hold numbers alone"),
        ([True, False, True, True], "a list that does not hold numbers alone"),
        (["0.5", "1"], "a list that does not hold numbers alone"),
        ([[1, 2], [3, 4]], "2 vectors, not one"),
        ("[[1, 2], [3, 4]]", "2 vectors, not one"),
        ({"indices": [1], "values": [0.5]}, "an object without one list of numbers"),
        ({}, "an object without one list of numbers"),
        ("[0.1 0.2 ... 0.3 0.4]", "a vector that was cut short by '...' when it was printed"),
        ("not a vector", "'not a vector', which is no vector"),
        ("Café </s> au lait", "'Café </s> au lait', which is no vector"),
        ([date(2026, 1, 2)], "a list that does not hold numbers alone"),
        ([10**400, 1], "a list that does not hold numbers alone"),
        ("{0:1}/3", "a sparse vector that cannot be read"),
        ("{1:0.5,2:x}/4", "a sparse vector that cannot be read"),
        ("{9:0.5}/4", "a sparse vector that cannot be read"),
        ([1, 2, 3], "a vector of 3 numbers, where others have 4"),
        ("nan", "a vector of 1 numbers, where others have 4"),
        ("AAAA", "3 bytes, which are no numbers of a vector"),
        (b"\x93NUMPY damaged", "an array of numpy that cannot be read"),
    ],
)
def test_what_is_no_vector_says_why(value: Any, problem: str) -> None:
    vectors, problems = read_vectors([[1, 2, 3, 4], value, [5, 6, 7, 8]])
    assert vectors.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert problems == {1: problem}


def test_a_pickle_is_not_opened() -> None:
    content = io.BytesIO()
    np.save(content, np.array([{"an": "object"}], object), allow_pickle=True)
    vectors, problems = read_vectors([content.getvalue()])
    assert vectors.size == 0
    assert problems == {0: "an array of numpy that cannot be read"}


def test_no_values_give_no_vectors() -> None:
    vectors, problems = read_vectors([])
    assert vectors.shape == (0, 0)
    assert problems == {}
