"""Stored numbers keep a vector's direction as well as they can."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.shard import Dtype, decode_vectors, encode_vectors

MIN_COSINES = {"float32": 1, "float16": 0.999999, "int8": 0.999, "binary": 0.7}


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 300.0]))
@pytest.mark.parametrize("dtype", MIN_COSINES)
def test_the_direction_comes_back(dtype: Dtype, seed: int, scale: float) -> None:
    vectors = scale * np.random.default_rng(seed).standard_normal((5, 64)).astype(np.float32)
    back = decode_vectors(encode_vectors(vectors, dtype), dtype)
    assert back.dtype == np.float32
    assert back.shape == vectors.shape
    cosines = (
        (back * vectors).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(vectors, axis=1)
    )
    assert (cosines >= MIN_COSINES[dtype] - 1e-6).all()


def test_a_zero_vector_stays_zero_and_float16_overflows_to_infinity() -> None:
    nothing = np.zeros((1, 8), np.float32)
    assert encode_vectors(nothing, "int8").tolist() == [[0] * 8]
    assert np.isinf(encode_vectors(np.full((1, 8), 1e6, np.float32), "float16")).all()
