"""The search compares every hypothesis on rows that show it, and finds what they are joined to."""

import numpy as np
import pytest
from mistakes import combination, roles_to_audit, sample_of, texts_to_audit, vectors_under

from e5.audit import LocalSource, Sample
from e5.audit.evidence import Evidence
from e5.audit.hypotheses import HYPOTHESES, RIGHT, PromptRules, label
from e5.audit.search import MAX_PROBES, Search, choose_probes
from e5.audit.storage import decodings

pytestmark = pytest.mark.slow


def searched(mini: LocalSource, sample: Sample) -> tuple[Search, Evidence]:
    rules = PromptRules(mini.prompts, "web_search_query")
    evidence = Evidence(sample, mini, rules)
    (evidence.decoding,) = decodings(sample.vectors, mini.dimensions)
    return Search(evidence, choose_probes(sample, range(len(sample.texts)))), evidence


class TestProbes:
    def test_they_are_few_and_show_what_differs(self) -> None:
        texts = [f"word {i}" for i in range(300)]
        texts[250] = "A\nline"
        texts[260] = " outer "
        texts[270] = "a </s> b"
        texts[280] = "word " * 500
        sample = sample_of(texts, [*roles_to_audit(298), "document", "query"], np.ones((300, 2)))
        chosen = choose_probes(sample, range(300))
        assert len(chosen) == MAX_PROBES
        assert {250, 260, 270, 280, 299} <= set(chosen)
        assert chosen == sorted(set(chosen))

    def test_a_small_sample_is_taken_whole(self) -> None:
        sample = sample_of(texts_to_audit(5), roles_to_audit(5), np.ones((5, 2)))
        assert choose_probes(sample, range(5)) == [0, 1, 2, 3, 4]
        assert choose_probes(sample, [1, 3]) == [1, 3]
        assert choose_probes(sample, []) == []


def test_every_hypothesis_is_compared_alone(mini: LocalSource) -> None:
    texts, roles = texts_to_audit(4), roles_to_audit(4)
    sample = sample_of(texts, roles, vectors_under(mini, RIGHT, texts, roles))
    search, _ = searched(mini, sample)
    packed = {each.label for each in HYPOTHESES if each.packed}
    assert packed < {label(each) for each in search.pool}


def test_right_vectors_need_no_other_model(mini: LocalSource) -> None:
    texts, roles = texts_to_audit(4), roles_to_audit(4)
    search, _ = searched(mini, sample_of(texts, roles, vectors_under(mini, RIGHT, texts, roles)))
    before = list(search.pool)
    search.widen()
    assert search.pool == before


@pytest.mark.parametrize(
    "names",
    [
        ("no_eos", "newlines_replaced"),
        ("no_bos", "no_instruction", "stripped"),
        ("double_eos", "other_instruction sts_query"),
        ("no_bos_no_eos", "truncated 128"),
    ],
    ids=str,
)
def test_combinations_are_found(mini: LocalSource, names: tuple[str, ...]) -> None:
    truth = combination(*names)
    texts, roles = texts_to_audit(8, long=1), roles_to_audit(8)
    sample = sample_of(texts, roles, vectors_under(mini, truth, texts, roles))
    search, evidence = searched(mini, sample)
    search.widen()
    assert truth in search.pool
    assert evidence.distances(truth, search.rows).max() < 1e-9
