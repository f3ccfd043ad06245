"""Evidence is computed once, as the cosine of each row with what a combination gives."""

from collections.abc import Sequence

import numpy as np
import pytest
from mistakes import combination, roles_to_audit, sample_of, texts_to_audit, vectors_under

from e5.audit import LocalSource
from e5.audit.evidence import Evidence
from e5.audit.hypotheses import RIGHT, Computation, PromptRules
from e5.audit.storage import decodings
from e5.vectors import Vectors

pytestmark = pytest.mark.slow

TEXTS, ROLES = texts_to_audit(6), roles_to_audit(6)
NO_EOS = combination("no_eos")


class Counted:
    """A source that counts what it is asked for."""

    def __init__(self, source: LocalSource) -> None:
        self.prompts, self.dimensions = source.prompts, source.dimensions
        self.rounding, self.can = source.rounding, source.can
        self.asked: list[Computation] = []
        self._source = source

    def forget(self) -> None:
        """It keeps nothing."""

    def compute(self, computations: Sequence[Computation]) -> list[Vectors]:
        self.asked += computations
        return self._source.compute(computations)


@pytest.fixture
def counted(mini: LocalSource) -> Counted:
    return Counted(mini)


@pytest.fixture
def evidence(mini: LocalSource, counted: Counted) -> Evidence:
    sample = sample_of(TEXTS, ROLES, vectors_under(mini, NO_EOS, TEXTS, ROLES))
    rules = PromptRules(mini.prompts, "web_search_query")
    made = Evidence(sample, counted, rules)
    (made.decoding,) = decodings(sample.vectors, mini.dimensions)
    return made


def test_distances_are_1_minus_the_cosine(evidence: Evidence, mini: LocalSource) -> None:
    right, given = (vectors_under(mini, each, TEXTS, ROLES) for each in (RIGHT, NO_EOS))
    norms = np.linalg.norm(right, axis=1) * np.linalg.norm(given, axis=1)
    cosines = (right * given).sum(1) / norms
    assert evidence.distances(RIGHT, range(6)) == pytest.approx(1 - cosines, abs=1e-6)
    assert evidence.distances(NO_EOS, range(6)) == pytest.approx(0, abs=1e-12)


def test_what_is_known_is_not_computed_again(evidence: Evidence, counted: Counted) -> None:
    evidence.distances(NO_EOS, [0, 1, 2])
    evidence.expected(NO_EOS, [1, 2, 3])
    assert len(counted.asked) == len(set(counted.asked)) == 4


def test_a_row_of_unknown_role_is_compared_with_both(mini: LocalSource) -> None:
    queries = vectors_under(mini, RIGHT, TEXTS, ["query"] * 6)
    sample = sample_of(TEXTS, ["auto"] * 6, queries)
    rules = PromptRules(mini.prompts, "web_search_query")
    evidence = Evidence(sample, mini, rules)
    (evidence.decoding,) = decodings(sample.vectors, mini.dimensions)
    assert evidence.distances(RIGHT, range(6)).max() < 1e-9
    assert np.allclose(evidence.whole(RIGHT, range(6)), queries, atol=1e-4)
    documents = evidence.candidates(RIGHT, range(6), 0)
    assert not np.allclose(documents, queries, atol=1e-2)


def test_combinations_that_give_the_same_vectors_do_not_differ(evidence: Evidence) -> None:
    assert not evidence.differ(combination("lowercased"), RIGHT, range(6))
    assert evidence.differ(NO_EOS, RIGHT, range(6))
    assert evidence.changes(combination("lowercased"), RIGHT, 0)
    assert not evidence.changes(combination("no_instruction"), RIGHT, 1)
