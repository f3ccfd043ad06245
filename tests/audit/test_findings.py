"""Rows are explained one by one: mixtures, vectors of other texts, what nothing explains."""

from collections.abc import Sequence

import numpy as np
import pytest
from mistakes import combination, roles_to_audit, sample_of, texts_to_audit, vectors_under

from e5.audit import LocalSource, TextRole
from e5.audit.evidence import Evidence
from e5.audit.findings import Findings
from e5.audit.hypotheses import RIGHT, PromptRules
from e5.audit.storage import decodings
from e5.vectors import Vectors

pytestmark = pytest.mark.slow

COUNT = 24
TEXTS, ROLES = texts_to_audit(COUNT), roles_to_audit(COUNT)
RULES_TASK = "web_search_query"


@pytest.fixture(scope="module")
def right(mini: LocalSource) -> Vectors:
    return vectors_under(mini, RIGHT, TEXTS, ROLES)


@pytest.fixture(scope="module")
def no_eos(mini: LocalSource) -> Vectors:
    return vectors_under(mini, combination("no_eos"), TEXTS, ROLES)


def found(mini: LocalSource, vectors: Vectors, roles: Sequence[TextRole] = ROLES) -> Findings:
    sample = sample_of(TEXTS, roles, vectors)
    evidence = Evidence(sample, mini, PromptRules(mini.prompts, RULES_TASK))
    ways = decodings(sample.vectors, mini.dimensions)
    evidence.decoding = ways[0]
    return Findings(sample, evidence, ways)


def labels(mini: LocalSource, vectors: Vectors) -> list[str]:
    return [each.label for each in found(mini, vectors).rows]


def test_a_mixture_is_told_row_by_row(mini: LocalSource, right: Vectors, no_eos: Vectors) -> None:
    mixed = np.where(np.arange(COUNT)[:, None] % 3 == 0, no_eos, right)
    expected = ["no_eos" if i % 3 == 0 else "right" for i in range(COUNT)]
    assert labels(mini, mixed) == expected


def test_a_rare_mistake_is_found_beside_what_is_right(
    mini: LocalSource, right: Vectors, no_eos: Vectors
) -> None:
    for row in (0, 5, 23):  # whether it is among the first probes or not
        mixed = right.copy()
        mixed[row] = no_eos[row]
        assert labels(mini, mixed) == ["no_eos" if i == row else "right" for i in range(COUNT)]


def test_two_mistakes_of_one_maker_are_joined(mini: LocalSource) -> None:
    # A row shows the one, another row the other, and some both.
    truth = combination("special_tokens_parsed", "stripped")
    findings = found(mini, vectors_under(mini, truth, TEXTS, ROLES))
    assert findings.accepted[0] == truth
    assert {each.combination for each in findings.rows} == {RIGHT, truth}


class TestOwners:
    def test_neighbours_that_changed_places(self, mini: LocalSource, right: Vectors) -> None:
        moved = right.copy()
        moved[[3, 4]] = right[[4, 3]]
        findings = found(mini, moved)
        expected = ["shuffled" if i in (3, 4) else "right" for i in range(COUNT)]
        assert [each.label for each in findings.rows] == expected
        assert [findings.rows[i].owner for i in (3, 4)] == [4, 3]

    def test_all_shifted_by_one(self, mini: LocalSource, no_eos: Vectors) -> None:
        findings = found(mini, np.roll(no_eos, 1, axis=0))
        assert [each.label for each in findings.rows] == ["no_eos + shuffled"] * COUNT
        assert [each.owner for each in findings.rows] == [(i - 1) % COUNT for i in range(COUNT)]

    def test_all_shifted_by_one_where_no_role_is_known(
        self, mini: LocalSource, right: Vectors
    ) -> None:
        findings = found(mini, np.roll(right, 1, axis=0), ["auto"] * COUNT)
        assert [each.label for each in findings.rows] == ["shuffled"] * COUNT
        assert [each.owner for each in findings.rows] == [(i - 1) % COUNT for i in range(COUNT)]

    def test_one_vector_for_several_texts(self, mini: LocalSource, right: Vectors) -> None:
        repeated = right.copy()
        repeated[[7, 8, 9]] = right[7]
        expected = ["duplicated" if i in (8, 9) else "right" for i in range(COUNT)]
        assert labels(mini, repeated) == expected


def test_rows_without_a_direction_are_unknown(mini: LocalSource, right: Vectors) -> None:
    spoilt = right.copy()
    spoilt[2], spoilt[5] = 0, np.nan
    expected = ["unknown" if i in (2, 5) else "right" for i in range(COUNT)]
    assert labels(mini, spoilt) == expected
    assert set(labels(mini, np.zeros_like(right))) == {"unknown"}


def test_rows_that_nothing_explains_are_unknown_beside_others(
    mini: LocalSource, right: Vectors
) -> None:
    mixed = right.copy()
    mixed[10:14] = np.random.default_rng(0).normal(size=(4, right.shape[1]))
    assert labels(mini, mixed) == ["unknown" if 10 <= i < 14 else "right" for i in range(COUNT)]
