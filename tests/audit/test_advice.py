"""Every verdict has its advice, in one sentence."""

import pytest

from e5.audit.advice import ADVICE, advice_on
from e5.audit.hypotheses import HYPOTHESES, OTHER_INSTRUCTIONS, PADDING

NAMES = {each.name for each in [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS]}


def test_every_hypothesis_has_one() -> None:
    assert {*NAMES, "shuffled", "duplicated", "another_model", "unknown"} == set(ADVICE)


@pytest.mark.parametrize("name", ADVICE)
def test_it_is_one_sentence(name: str) -> None:
    sentence = advice_on([name], [])
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_right_vectors_need_nothing() -> None:
    assert advice_on(["right"], []) == "Nothing need be done."
    assert advice_on(["right", "dimensions"], ["lowercased"]) == "Nothing need be done."


def test_two_mistakes_have_two_remedies() -> None:
    sentence = advice_on(["no_eos", "truncated"], [])
    assert "</s>" in sentence
    assert "maximum length" in sentence
    assert sentence.endswith("; then embed again.")


def test_the_nearest_are_named_beside_unknown() -> None:
    assert advice_on(["unknown"], ["mean", "no_bos"]).endswith("(the nearest: mean, no_bos).")
