"""Stored numbers are read as the directions that they came from, with the rounding they cost."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from e5.audit.storage import Decoding, Floats, decodings, storage_names, unit_rows
from e5.vectors import Vectors

HIDDEN = 64
RANDOM = np.random.default_rng(0)
WHOLE: Vectors = (RANDOM.normal(size=(12, HIDDEN)) + 0.5).astype(np.float32) * 3


def normalised(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def int8_per_vector(vectors: Vectors) -> Vectors:
    largest = np.abs(vectors).max(1, keepdims=True)
    found: Vectors = np.rint(vectors / largest * 127).astype(np.float32)
    return found


def int8_per_dimension(vectors: Vectors) -> Vectors:
    """As sentence-transformers' quantize_embeddings does."""
    low, high = vectors.min(0), vectors.max(0)
    whole = np.floor((vectors - low) / ((high - low) / 255)).clip(0, 255)
    found: Vectors = whole.astype(np.float32) - 128
    return found


def bfloat16(vectors: Vectors) -> Vectors:
    found: Vectors = torch.tensor(vectors).bfloat16().float().numpy()
    return found


def packed(vectors: Vectors) -> Vectors:
    return np.packbits(vectors > 0, axis=1).astype(np.float32)


def signed(vectors: Vectors) -> Vectors:
    return np.packbits(vectors > 0, axis=1).view(np.int8).astype(np.float32)


STORED: dict[str, tuple[Callable[[Vectors], Vectors], list[str]]] = {
    "as they are": (lambda v: v, []),
    "normalised": (normalised, ["normalised"]),
    "scaled": (lambda v: v * 7, ["scaled"]),
    "float16": (lambda v: v.astype(np.float16).astype(np.float32), ["float16"]),
    "float16, normalised": (
        lambda v: normalised(v).astype(np.float16).astype(np.float32),
        ["float16", "normalised"],
    ),
    "bfloat16": (bfloat16, ["bfloat16"]),
    "int8": (int8_per_vector, ["int8"]),
    "int8, decoded": (lambda v: int8_per_vector(v) * np.float32(0.003), ["int8"]),
    "int8 of one scale": (
        lambda v: np.rint(v / np.abs(v).max() * 127).astype(np.float32),
        ["int8"],
    ),
    "the first dimensions": (lambda v: v[:, :24], ["dimensions 24"]),
    "the first dimensions, normalised": (
        lambda v: normalised(v[:, :24]),
        ["dimensions 24", "normalised"],
    ),
    "normalised, the first dimensions": (
        lambda v: normalised(v)[:, :24],
        ["dimensions 24", "normalised"],
    ),
    "signs": (lambda v: np.sign(v), ["binary"]),
    "bits": (lambda v: (v > 0).astype(np.float32), ["binary"]),
    "signs, normalised": (lambda v: normalised(np.sign(v)), ["binary"]),
    "bits in uint8": (packed, ["binary"]),
    "bits in int8": (signed, ["binary"]),
    "bits in int8, less 128": (lambda v: packed(v) - 128, ["binary"]),
    "bits of the first dimensions": (lambda v: packed(v[:, :32]), ["dimensions 32", "binary"]),
}


def best_reading(stored: Vectors) -> tuple[Decoding, Floats]:
    """The decoding under which stored numbers lie nearest to the vectors, and how far that is."""
    found = []
    for decoding in decodings(stored, HIDDEN):
        distances = ((decoding.units - decoding.expected(WHOLE)) ** 2).sum(1) / 2
        found.append((decoding, distances))
    return min(found, key=lambda each: each[1].mean())


@pytest.mark.parametrize(("store", "names"), STORED.values(), ids=STORED)
def test_what_was_stored_is_read(store: Callable[[Vectors], Vectors], names: list[str]) -> None:
    stored = store(WHOLE).astype(np.float32)
    decoding, distances = best_reading(stored)
    assert (distances <= 3 * decoding.noise + 1e-9).all()
    assert storage_names(stored, WHOLE, decoding) == names


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int8", "int8, decoded"])
def test_the_rounding_is_what_it_was_expected_to_be(name: str) -> None:
    decoding, distances = best_reading(STORED[name][0](WHOLE).astype(np.float32))
    assert distances.mean() == pytest.approx(decoding.noise.mean(), rel=0.5)


def test_scales_of_single_dimensions_are_found() -> None:
    stored = int8_per_dimension(WHOLE)
    (unknown,) = (each for each in decodings(stored, HIDDEN) if each.per_dimension)
    decoding, rest = unknown.fit(range(12), WHOLE)
    assert rest < 1e-3
    assert (((decoding.units - unit_rows(WHOLE.astype(np.float64))) ** 2).sum(1) < 1e-3).all()
    _, other = unknown.fit(range(12), WHOLE[::-1].copy())
    assert other > 0.2


def test_vectors_that_do_not_vary_fit_nothing() -> None:
    (unknown,) = (
        each for each in decodings(int8_per_dimension(WHOLE), HIDDEN) if each.per_dimension
    )
    assert unknown.fit(range(12), np.ones_like(WHOLE))[1] == np.inf


def test_more_dimensions_than_the_model_has_cannot_be_read() -> None:
    assert decodings(np.full((2, HIDDEN + 1), 0.5, np.float32), HIDDEN) == []


def test_rows_without_a_direction_are_zeros() -> None:
    stored = WHOLE.copy()
    stored[0], stored[1, 0], stored[2, 0] = 0, np.nan, np.inf
    (decoding,) = decodings(stored, HIDDEN)
    assert decoding.units.any(1).tolist() == [False] * 3 + [True] * 9
    assert (decoding.noise < 1).all()
