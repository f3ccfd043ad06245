"""Vector arithmetic equals a plain loop in float64."""

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.errors import InputError
from e5.vectors import Vectors, check_dimensions, cosine_scores, finish, similarity

# Far wider than any model's, and narrow enough that their squares are float32 too.
NUMBERS = st.floats(-(2.0**50), 2.0**50, width=32).map(lambda x: x if abs(x) > 1e-15 else 0.0)
SIZES = st.tuples(st.integers(0, 5), st.integers(1, 8))


def matrices(rows: int, columns: int) -> st.SearchStrategy[Vectors]:
    values = st.lists(NUMBERS, min_size=rows * columns, max_size=rows * columns)
    return values.map(lambda flat: np.array(flat, np.float32).reshape(rows, columns))


ANY_VECTORS = SIZES.flatmap(lambda size: matrices(*size))
# Queries and documents of one width.
BOTH_SIDES = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 8)).flatmap(
    lambda sizes: st.tuples(matrices(sizes[0], sizes[2]), matrices(sizes[1], sizes[2]))
)


def unit(row: list[float]) -> list[float]:
    norm = sqrt(sum(x * x for x in row))
    return [x / norm for x in row] if norm else row


def true_scores(queries: Vectors, documents: Vectors) -> list[list[float]]:
    return [
        [
            100 * sum(x * y for x, y in zip(unit(query), unit(document), strict=True))
            for document in documents.tolist()
        ]
        for query in queries.tolist()
    ]


class TestFinish:
    """The first dimensions are kept, then divided by their norm."""

    @given(vectors=ANY_VECTORS, kept=st.integers(1, 8) | st.none(), normalize=st.booleans())
    def test_it_equals_a_plain_loop(
        self, vectors: Vectors, kept: int | None, normalize: bool
    ) -> None:
        before = vectors.copy()
        rows = [row[:kept] for row in vectors.tolist()]
        truth = [unit(row) for row in rows] if normalize else rows
        width = min(kept or vectors.shape[1], vectors.shape[1])
        finished = finish(vectors, kept, normalize=normalize)
        assert finished.shape == (len(vectors), width)
        assert finished.dtype == np.float32
        np.testing.assert_allclose(
            finished, np.array(truth, np.float64).reshape(finished.shape), rtol=1e-6
        )
        np.testing.assert_array_equal(vectors, before)

    @given(vectors=ANY_VECTORS)
    def test_a_normalised_vector_has_the_norm_1_unless_it_is_zero(self, vectors: Vectors) -> None:
        norms = np.linalg.norm(finish(vectors, None, normalize=True).astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, vectors.any(axis=1).astype(float), rtol=1e-6)

    def test_without_normalising_no_bit_changes(self) -> None:
        vectors = np.array([[0.1, -3e38, 1e-45]], np.float32)
        np.testing.assert_array_equal(finish(vectors, None, normalize=False), vectors)


class TestScores:
    """Cosine x 100, of each with each."""

    @given(sides=BOTH_SIDES)
    def test_they_equal_a_plain_loop(self, sides: tuple[Vectors, Vectors]) -> None:
        queries, documents = sides
        scores = cosine_scores(queries, documents)
        assert scores.shape == (len(queries), len(documents))
        assert scores.dtype == np.float32
        truth = np.array(true_scores(queries, documents)).reshape(scores.shape)
        np.testing.assert_allclose(scores, truth, atol=1e-4)

    @given(sides=BOTH_SIDES)
    def test_similarity_of_two_lists_is_the_same(self, sides: tuple[Vectors, Vectors]) -> None:
        np.testing.assert_array_equal(similarity(*sides), cosine_scores(*sides))

    def test_rounding_never_takes_a_score_out_of_its_range(self) -> None:
        vectors = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
        assert cosine_scores(vectors, vectors).max() == 100
        assert cosine_scores(vectors, -vectors).min() == -100

    def test_a_zero_vector_is_like_nothing(self) -> None:
        vectors = np.array([[0, 0], [1, 2]], np.float32)
        assert cosine_scores(vectors, vectors)[0].tolist() == [0, 0]

    def test_one_vector_on_either_side_needs_no_list(self) -> None:
        one, many = np.array([2, 0], np.float32), np.array([[1, 0], [0, 5], [-1, 0]], np.float32)
        assert similarity(one, many).tolist() == [[100, 0, -100]]
        assert similarity(many, one).tolist() == [[100], [0], [-100]]
        assert similarity(one, one).tolist() == [[100]]

    @pytest.mark.parametrize(
        ("queries", "documents"),
        [
            ((2, 3), (2, 4)),
            ((3,), (4,)),
            ((2, 4), (3,)),
            ((1, 2, 3), (1, 2, 3)),
            ((2, 3), (1, 2, 3)),
        ],
    )
    def test_vectors_of_different_widths_are_not_compared(
        self, queries: tuple[int, ...], documents: tuple[int, ...]
    ) -> None:
        with pytest.raises(InputError, match=r"^documents: received vectors of shape \(") as caught:
            similarity(np.ones(queries, np.float32), np.ones(documents, np.float32))
        assert "embed both with the same dimensions" in str(caught.value)


@pytest.mark.parametrize("vectors", [None, "snow", [["a"]], [[1.0], [1.0, 2.0]], {"a": 1}, [None]])
def test_what_is_no_vectors_is_refused_by_its_side(vectors: Any) -> None:
    one = np.ones(2, np.float32)
    with pytest.raises(InputError, match=r"^queries: received .*; send float32 vectors"):
        similarity(vectors, one)
    with pytest.raises(InputError, match=r"^documents: received "):
        similarity(one, vectors)


@pytest.mark.parametrize(("most", "remedy"), [(4, "use 1 to 4"), (None, "use 1 or more")])
@pytest.mark.parametrize("dimensions", [0, -1, True, 1.5, "2"])
def test_dimensions_are_whole_numbers_from_1_on(
    dimensions: Any, most: int | None, remedy: str
) -> None:
    fine: list[Any] = [None, 1, 4, np.int64(2)]
    for each in fine:
        check_dimensions(each, most)
    with pytest.raises(InputError, match=rf"^dimensions: received {dimensions!r}; {remedy}\.$"):
        check_dimensions(dimensions, most)


def test_the_model_s_dimensions_are_the_most() -> None:
    check_dimensions(5, None)  # which the service knows
    with pytest.raises(InputError, match=r"^dimensions: received 5; use 1 to 4\.$"):
        check_dimensions(5, 4)


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(InputError, match=r"^dimensions: received 'x{56}\.\.\.; use 1 or more\.$"):
        check_dimensions("x" * 1000, None)  # type: ignore[arg-type]
