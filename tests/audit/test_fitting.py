"""Numbers with several ways to be read are read as what they fit best."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mistakes import combination, roles_to_audit, sample_of, texts_to_audit, vectors_under
from numpy.typing import NDArray

from e5.audit import LocalSource
from e5.audit.evidence import Evidence
from e5.audit.fitting import choose_decoding
from e5.audit.hypotheses import RIGHT, Combination, PromptRules
from e5.audit.storage import Decoding, decodings
from e5.vectors import Vectors

pytestmark = pytest.mark.slow

TEXTS, ROLES = texts_to_audit(12), roles_to_audit(12)
POOL = [RIGHT, *(combination(name) for name in ("no_eos", "no_bos", "before_norm", "first_token"))]


def per_dimension(vectors: Vectors) -> Vectors:
    low, high = vectors.min(0), vectors.max(0)
    found: Vectors = np.floor((vectors - low) / ((high - low) / 255)).clip(0, 255) - 128
    return found


def chosen(
    mini: LocalSource, vectors: NDArray[Any]
) -> tuple[Decoding, list[Combination], Evidence]:
    sample = sample_of(TEXTS, ROLES, vectors)
    rules = PromptRules(mini.prompts, "web_search_query")
    evidence = Evidence(sample, mini, rules)
    found = decodings(sample.vectors, mini.dimensions)
    evidence.decoding = found[0]
    rivals = choose_decoding(evidence, found, POOL, range(12), final=True)
    return evidence.decoding, rivals, evidence


@pytest.mark.parametrize("truth", POOL[:3], ids=["right", "no_eos", "no_bos"])
def test_scales_of_single_dimensions_are_those_of_the_truth(
    mini: LocalSource, truth: Combination
) -> None:
    vectors = per_dimension(vectors_under(mini, truth, TEXTS, ROLES))
    decoding, rivals, evidence = chosen(mini, vectors)
    assert decoding.fitted
    assert rivals == []
    assert (evidence.distances(truth, range(12)) <= 2 * decoding.noise).all()


def test_the_norms_scales_cannot_be_told_from_those_of_int8(mini: LocalSource) -> None:
    vectors = vectors_under(mini, combination("before_norm"), TEXTS, ROLES)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    decoding, rivals, evidence = chosen(mini, per_dimension(units))
    assert decoding.fitted
    assert rivals == []
    assert (evidence.distances(RIGHT, range(12)) <= 2 * decoding.noise).all()


@pytest.mark.parametrize(
    "store",
    [
        lambda v: np.rint(v / np.abs(v).max(1, keepdims=True) * 127),
        lambda v: np.packbits(v > 0, axis=1),
        lambda v: np.packbits(v > 0, axis=1).astype(int) - 128,
    ],
    ids=["int8", "bits in uint8", "bits in int8"],
)
def test_other_whole_numbers_are_read_as_what_they_are(
    mini: LocalSource, store: Callable[[Vectors], Vectors]
) -> None:
    decoding, rivals, evidence = chosen(mini, store(vectors_under(mini, RIGHT, TEXTS, ROLES)))
    assert not decoding.fitted
    assert rivals == []
    assert (evidence.distances(RIGHT, range(12)) <= 2 * decoding.noise).all()


def test_what_nothing_fits_keeps_a_reading(mini: LocalSource) -> None:
    random = np.random.default_rng(0).integers(-128, 128, (12, 192))
    decoding, rivals, _ = chosen(mini, random)
    assert not decoding.fitted
    assert rivals == []
