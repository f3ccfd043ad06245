"""Rankings are merged by their ranks alone, and a document is shown once."""

from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.index import RANK_OFFSET, Hit, best_of_each, merge_rankings

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=3)


@given(rankings=RANKINGS)
def test_the_sum_of_reciprocal_ranks_decides(rankings: list[list[str]]) -> None:
    found = [
        row["id"]
        for row in merge_rankings(*([{"id": name} for name in ranking] for ranking in rankings))
    ]

    def score(name: str) -> float:
        return sum(
            1 / (RANK_OFFSET + 1 + ranking.index(name)) for ranking in rankings if name in ranking
        )

    assert sorted(found) == sorted({name for ranking in rankings for name in ranking})
    scores = [score(name) for name in found]
    assert scores == sorted(scores, reverse=True)


@given(documents=st.lists(st.sampled_from("abc")))
def test_the_first_row_of_each_document_stays(documents: list[str]) -> None:
    rows = [{"id": i, "document": name} for i, name in enumerate(documents)]
    kept = best_of_each(rows)
    assert [row["document"] for row in kept] == list(dict.fromkeys(documents))
    assert all(row["id"] == documents.index(row["document"]) for row in kept)


def test_a_hit_is_one_dictionary_for_json() -> None:
    found = Hit("7", 61.2, "Snow.", {"year": 2024}).as_dict()
    assert found == {"id": "7", "score": 61.2, "text": "Snow.", "year": 2024}
