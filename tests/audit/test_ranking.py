"""nDCG@10 of neighbours: 1 where rankings are right, and by the formula where they are not."""

import numpy as np
import pytest

from e5.audit.ranking import neighbour_ndcg, similarity_correlation
from e5.audit.sample import TextRole
from e5.audit.storage import Floats, unit_rows

ANGLES = np.array([0, 0.1, 0.3, 0.35, 0.9])


def on_circle(angles: Floats) -> Floats:
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def test_the_right_vectors_are_right() -> None:
    right = on_circle(ANGLES)
    assert neighbour_ndcg(right, right, ["auto"] * 5) == 1.0


def test_a_turn_of_all_vectors_changes_no_ranking() -> None:
    assert neighbour_ndcg(on_circle(ANGLES + 2), on_circle(ANGLES), ["document"] * 5) == 1.0


def test_two_documents_that_change_places_cost_what_the_formula_says() -> None:
    roles: list[TextRole] = ["query", "document", "document"]
    right, given = on_circle(np.array([0, 0.1, 0.2])), on_circle(np.array([0, 0.2, 0.1]))
    discount = 1 / np.log2(3)
    expected = (1 + 2 * discount) / (2 + 1 * discount)
    assert neighbour_ndcg(given, right, roles) == pytest.approx(expected)


def test_queries_rank_documents_only() -> None:
    roles: list[TextRole] = ["query", "query", "document", "document"]
    right = on_circle(np.array([0.0, 0.1, 0.2, 0.4]))
    moved = on_circle(np.array([0.0, 0.05, 0.2, 0.4]))  # a query among queries
    assert neighbour_ndcg(moved, right, roles) == 1.0


def test_only_ten_neighbours_count() -> None:
    random = np.random.default_rng(0)
    right = unit_rows(random.normal(size=(40, 8)))
    noise = unit_rows(random.normal(size=(40, 8)))
    assert 0.1 < neighbour_ndcg(noise, right, ["auto"] * 40) < 0.5


@pytest.mark.parametrize("roles", [["query"], ["auto"]])
def test_one_text_has_no_neighbours(roles: list[TextRole]) -> None:
    assert neighbour_ndcg(np.ones((1, 2)), np.ones((1, 2)), roles) == 1.0


class TestSimilarityCorrelation:
    def test_a_turn_or_a_shift_of_all_vectors_changes_little(self) -> None:
        random = np.random.default_rng(0)
        given = random.normal(size=(24, 16)) + 1
        turn = np.linalg.qr(random.normal(size=(16, 16)))[0]
        right = unit_rows(given)
        assert similarity_correlation(unit_rows(given @ turn), right) == pytest.approx(1)
        assert similarity_correlation(unit_rows(given - given.mean(0)), right) > 0.9

    @pytest.mark.parametrize("count", [4, 8, 64])
    def test_unrelated_vectors_have_none(self, count: int) -> None:
        random = np.random.default_rng(0)
        pairs = [unit_rows(random.normal(size=(count, 16))) for _ in range(80)]
        found = [similarity_correlation(pairs[i], pairs[i + 1]) for i in range(0, 80, 2)]
        assert abs(np.mean(found)) < 0.2

    def test_constant_vectors_have_none(self) -> None:
        constant = unit_rows(np.ones((5, 3)))
        assert similarity_correlation(constant, unit_rows(np.eye(5))) == 0.0
