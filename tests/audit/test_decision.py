"""What rounding explains is accepted, and what it cannot tell apart is not named."""

from collections.abc import Sequence

import numpy as np
import pytest
from mistakes import combination, sample_of

from e5.audit.decision import Decision, Explanation
from e5.audit.evidence import Evidence
from e5.audit.hypotheses import RIGHT, Computation, PromptRules, computations
from e5.audit.storage import decodings
from e5.prompts import E5_PROMPTS
from e5.vectors import Vectors

SIZE = 128
TEXTS = [f"text {i}" for i in range(12)]
NO_EOS, NO_BOS, BOTH = combination("no_eos"), combination("no_bos"), combination("no_bos_no_eos")
NEAR = combination("double_eos")
POOL = [RIGHT, NO_EOS, NO_BOS, BOTH, NEAR]
RULES = PromptRules(E5_PROMPTS, "")


def direction(*key: object) -> Vectors:
    seed = [ord(character) for character in repr(key)]
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


class Geometry:
    """A source in which hypotheses move a text's vector by known distances.

    `no_eos` and `no_bos` move it far. `double_eos` moves it by `near` of its length.
    """

    prompts, dimensions, rounding = E5_PROMPTS, SIZE, 1e-10

    def __init__(self, near: float = 0.05) -> None:
        self._near = near

    def can(self, _: Computation) -> bool:
        return True

    def forget(self) -> None:
        """It keeps nothing."""

    def compute(self, asked: Sequence[Computation]) -> list[Vectors]:
        return [self._vector(each)[None] for each in asked]

    def _vector(self, each: Computation) -> Vectors:
        vector = direction(each.text)
        if each.eos == 0:
            vector = vector + 0.3 * direction(each.text, "eos")
        if each.bos == 0:
            vector = vector + 0.2 * direction(each.text, "bos")
        if each.eos == 2:
            vector = vector + np.float32(self._near) * direction(each.text, "near")
        return vector.astype(np.float32)


def vectors_of(geometry: Geometry, chosen: Sequence[Computation]) -> Vectors:
    return np.concatenate(geometry.compute(chosen))


def made(geometry: Geometry, names: Sequence[str] = ("right",) * 12) -> Vectors:
    by_name = {"right": RIGHT, "no_eos": NO_EOS, "no_bos": NO_BOS, "near": NEAR}
    ways = [
        computations(by_name[name], text, "document", RULES)[0]
        for name, text in zip(names, TEXTS, strict=True)
    ]
    return vectors_of(geometry, ways)


def evidence_of(geometry: Geometry, vectors: Vectors) -> Evidence:
    sample = sample_of(TEXTS, ["document"] * 12, vectors)
    evidence = Evidence(sample, geometry, RULES)
    evidence.decoding = decodings(sample.vectors, SIZE)[0]
    return evidence


def explained(vectors: Vectors, geometry: Geometry, *, engine: float = 0.0) -> list[Explanation]:
    decision = Decision(evidence_of(geometry, vectors), POOL, range(12), engine)
    return decision.explanations(suspected=engine > 0)


def noisy(vectors: Vectors, part: float) -> Vectors:
    noise = np.random.default_rng(1).normal(size=vectors.shape)
    return (vectors * (1 + part * noise)).astype(np.float32)


def test_exact_vectors_have_one_explanation() -> None:
    (only,) = explained(made(Geometry()), Geometry())
    assert only.combination == RIGHT
    assert list(only.rows) == list(range(12))
    assert only.rivals == []


def test_a_mixture_has_one_for_each_part() -> None:
    names = ["no_eos"] * 7 + ["right"] * 5
    first, second = explained(made(Geometry(), names), Geometry())
    assert (first.combination, second.combination) == (NO_EOS, RIGHT)
    assert list(second.rows) == list(range(7, 12))


@pytest.mark.parametrize("name", ["right", "no_eos", "near"])
def test_int8_hides_none_that_are_farther_apart_than_its_rounding(name: str) -> None:
    vectors = made(Geometry(), [name] * 12)
    stored = np.rint(vectors / np.abs(vectors).max(1, keepdims=True) * 127)
    (only,) = explained(stored.astype(np.float32), Geometry())
    assert only.combination == {"right": RIGHT, "no_eos": NO_EOS, "near": NEAR}[name]
    assert only.rivals == []


def test_those_that_rounding_cannot_tell_apart_are_rivals() -> None:
    geometry = Geometry(near=0.006)
    vectors = made(geometry)
    stored = np.rint(vectors / np.abs(vectors).max(1, keepdims=True) * 30)
    (only,) = explained(stored.astype(np.float32), geometry)
    assert {only.combination, *only.rivals} == {RIGHT, NEAR}


def test_of_those_that_do_not_matter_the_simplest_is_taken() -> None:
    geometry = Geometry(near=0.0001)
    (only,) = explained(noisy(made(geometry, ["near"] * 12), 1e-3), geometry)
    assert only.combination == RIGHT
    assert only.rivals == []


def test_what_is_farther_than_rounding_explains_is_not_explained() -> None:
    assert explained(noisy(made(Geometry()), 0.01), Geometry()) == []


def test_an_engines_rounding_is_told_by_its_evenness() -> None:
    vectors = noisy(made(Geometry()), 0.01)
    (only,) = explained(vectors, Geometry(), engine=5e-5)
    assert only.combination == RIGHT
    uneven = made(Geometry())
    uneven[:6] = vectors[:6]
    assert explained(uneven, Geometry(), engine=2e-5) == []


def test_a_change_towards_a_hypothesis_is_no_rounding() -> None:
    right, other = made(Geometry()), made(Geometry(), ["no_bos"] * 12)
    assert explained(right + np.float32(0.04) * (other - right), Geometry(), engine=3e-5) == []


def test_a_few_rows_do_not_show_an_engines_rounding() -> None:
    vectors = made(Geometry(), ["right"] * 9 + ["no_eos"] * 3)
    vectors[9:] = noisy(vectors, 0.01)[9:]
    assert [each.combination for each in explained(vectors, Geometry(), engine=5e-5)] == []
