"""How vectors may have been stored: the numbers as they are -> directions, with their rounding.

A decoding knows which dimensions were kept, whether only signs were, and how far rounding takes a
direction from the one that was stored. It knows no hypotheses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from e5.vectors import Vectors

Floats = NDArray[np.float64]

# Signs turn where an element is near to 0: so much of a row's cosine, at most.
BINARY_NOISE = 0.012
MIN_FIT_ROWS = 6  # to fit two numbers for each dimension
MIN_VARIANCE = 1e-3  # of vectors to which scales are fitted, beside their squares
MAX_STEPS = 255  # of whole numbers in one byte
NORMS = 4e-3  # by which norms differ that are equal: bfloat16 rounds by half of that
MIN_GRID = 16  # elements of a row, below which a grid may be chance


@dataclass(frozen=True)
class Decoding:
    """One way to read the stored numbers.

    Attributes:
        names: what it says about them, such as `int8`.
        numbers: float64 `[num_rows, dimensions]`, as decoded.
        noise: float64 `[num_rows]`, 1 minus the cosine that rounding is expected to cost.
        binary: whether only signs are kept.
        per_dimension: whether each dimension has a scale and an offset of its own.
        fitted: whether these were found, by what some combination gives.
    """

    names: tuple[str, ...]
    numbers: Floats
    noise: Floats
    binary: bool = False
    per_dimension: bool = False
    fitted: bool = False

    @property
    def units(self) -> Floats:
        """The directions, `[num_rows, dimensions]`; rows without one are zeros."""
        return unit_rows(self.numbers)

    def expected(self, vectors: Vectors) -> Floats:
        """The directions of whole vectors `[num_vectors, hidden_size]` if stored in this way."""
        kept = vectors[:, : self.numbers.shape[1]].astype(np.float64)
        return unit_rows(np.where(kept > 0, 1.0, -1.0) if self.binary else kept)

    def fit(self, rows: Sequence[int], vectors: Vectors) -> "tuple[Decoding, float]":
        """The numbers decoded by the scales and offsets that bring these rows near to vectors.

        Args:
            rows: at least `MIN_FIT_ROWS`.
            vectors: float32 `[num_rows, hidden_size]`, one for each of `rows`, as they were before
                they were stored.

        Returns:
            The decoding, and the part of the vectors' variance that it does not explain.
        """
        given, kept = self.numbers[rows], vectors[:, : self.numbers.shape[1]].astype(np.float64)
        given_mean, kept_mean = given.mean(0), kept.mean(0)
        deviation, target = given - given_mean, kept - kept_mean
        spread = (deviation**2).sum(0)
        scale = (deviation * target).sum(0) / np.where(spread == 0, 1, spread)
        decoded = kept_mean + (self.numbers - given_mean) * scale
        noise = (scale**2).sum() / 12 / 2 / (decoded**2).sum(1)
        # Two numbers were fitted to each dimension.
        rest = ((deviation * scale - target) ** 2).sum() * len(rows) / (len(rows) - 2)
        varies = (target**2).sum() > MIN_VARIANCE * (kept**2).sum() and (scale > 0).mean() > 0.9
        decoding = replace(self, numbers=decoded, noise=noise, fitted=True)
        return decoding, float(rest / (target**2).sum()) if varies else np.inf


def unit_rows(rows: Floats) -> Floats:
    """Each row with a norm of 1; zeros, and rows that are not finite, become zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        usable = (norms > 0) & (norms < np.inf)
        return np.where(usable, rows / np.where(usable, norms, 1), 0)


def decodings(stored: Vectors, hidden_size: int) -> list[Decoding]:
    """Every way to read stored vectors of a model with `hidden_size` dimensions."""
    usable: NDArray[np.bool_] = (unit_rows(stored.astype(np.float64)) != 0).any(1)
    numbers = np.where(usable[:, None], stored.astype(np.float64), 0)
    if not numbers[:, hidden_size:].any():  # a column may be wider than its vectors
        stored, numbers = stored[:, :hidden_size], numbers[:, :hidden_size]
    dimensions = stored.shape[1]
    found = []
    whole = bool((numbers == np.rint(numbers)).all())
    largest, smallest = numbers.max(initial=0), numbers.min(initial=0)
    if whole and smallest >= -1 and largest <= 1:  # bits, one to a number
        if dimensions <= hidden_size:
            signs = np.where(numbers > 0, 1.0, -1.0) * usable[:, None]
            found.append(_binary(signs))
    elif whole and smallest >= -128 and largest <= 255:
        if dimensions <= hidden_size:
            found.append(Decoding(("int8",), numbers, _grid_noise(numbers, 1.0)))
            if usable.sum() >= MIN_FIT_ROWS:
                nothing = np.zeros(len(numbers))
                found.append(Decoding(("int8",), numbers, nothing, per_dimension=True))
        found += _packed(numbers, usable, hidden_size)
    elif dimensions <= hidden_size:
        found.append(_floats(stored, numbers))
    return found


def _binary(signs: Floats) -> Decoding:
    return Decoding(("binary",), signs, np.full(len(signs), BINARY_NOISE), binary=True)


def _packed(numbers: Floats, usable: NDArray[np.bool_], hidden_size: int) -> list[Decoding]:
    """Eight signs to a byte, the first in the highest bit: as uint8, less 128, or as its int8."""
    if 8 * numbers.shape[1] >= hidden_size + 8:
        return []
    whole = numbers.astype(np.int64)
    ways = [whole] if whole.min() >= 0 else [whole + 128, whole & 255]
    found = []
    for way in ways:
        if way.max() < 256:
            bits = np.unpackbits(way.astype(np.uint8), axis=1)[:, :hidden_size]
            found.append(_binary(np.where(bits == 1, 1.0, -1.0) * usable[:, None]))
    return found


def _floats(stored: Vectors, numbers: Floats) -> Decoding:
    steps = _grid_steps(numbers)
    if steps is not None:
        if (np.abs(numbers).max(1) <= 1.5 * steps).all():
            return _binary(np.where(numbers > 0, 1.0, -1.0) * (numbers != 0).any(1)[:, None])
        return Decoding(("int8",), numbers, _grid_noise(numbers, steps[:, None]))
    as_float32 = np.where(numbers != 0, stored, 0).astype(np.float32)
    if not (as_float32.view(np.uint32) & 0xFFFF).any():
        exponents = np.frexp(as_float32)[1]
        return Decoding(("bfloat16",), numbers, _grid_noise(numbers, np.exp2(exponents - 8.0)))
    with np.errstate(over="ignore"):
        as_float16 = as_float32.astype(np.float16)
    if (as_float16 == as_float32).all():
        spacing = np.spacing(np.abs(as_float16)).astype(np.float64)
        return Decoding(("float16",), numbers, _grid_noise(numbers, spacing))
    return Decoding((), numbers, np.zeros(len(numbers)))


def _grid_noise(numbers: Floats, steps: Floats | float) -> Floats:
    """1 minus the cosine that rounding to multiples of `steps` is expected to cost each row."""
    squares = (numbers**2).sum(1)
    errors = np.broadcast_to(np.square(steps) / 12, numbers.shape).sum(1)
    noise: Floats = errors / 2 / np.where(squares == 0, 1, squares)
    return noise


def _grid_steps(numbers: Floats) -> Floats | None:
    """For each row the step of which its numbers are multiples; None if a row has none."""
    rows = numbers[(numbers != 0).any(1)]
    if not len(rows) or rows.shape[1] < MIN_GRID:
        return None
    largest = np.abs(rows).max(1, keepdims=True)
    steps = np.zeros(len(rows))
    for count in range(1, MAX_STEPS + 1):
        multiples = rows[:, :MIN_GRID] * (count / largest)
        for i in np.flatnonzero(_near_whole(multiples) & (steps == 0)):
            if _near_whole(rows[i : i + 1] * (count / largest[i]))[0]:
                steps[i] = largest[i, 0] / count
    if not steps.all():
        return None
    all_steps = np.ones(len(numbers))
    all_steps[(numbers != 0).any(1)] = steps
    return all_steps


def _near_whole(multiples: Floats) -> NDArray[np.bool_]:
    # Float16 on top moves a multiple by up to 255 / 2048.
    near: NDArray[np.bool_] = (np.abs(multiples - np.rint(multiples)) < 0.13).all(1)
    return near


def storage_names(stored: Vectors, whole: Vectors, decoding: Decoding) -> list[str]:
    """How vectors are stored, by their numbers and by the whole vectors that they come from.

    Args:
        stored: float32 `[num_rows, dimensions]`, at least one, none of them zero.
        whole: float32 `[num_rows, hidden_size]`, as the model gives them.
        decoding: how the stored numbers are read.
    """
    dimensions = stored.shape[1]
    kept = decoding.numbers.shape[1]
    names = [f"dimensions {kept}"] * (kept < whole.shape[1])
    names += decoding.names
    if decoding.binary or decoding.names == ("int8",):
        return names
    norms = np.linalg.norm(stored.astype(np.float64), axis=1)
    by_kept = norms / np.linalg.norm(whole[:, :dimensions].astype(np.float64), axis=1)
    whole_norms = np.linalg.norm(whole.astype(np.float64), axis=1)
    if np.allclose(norms, 1, atol=NORMS) or np.allclose(by_kept * whole_norms, 1, atol=NORMS):
        names.append("normalised")  # after the other dimensions were dropped, or before
    elif not np.allclose(by_kept, 1, atol=10 * NORMS):
        names.append("scaled")
    return names
