"""Vectors made wrong by other libraries are named, and those that they make right are right.

Each is judged as it comes, and with the rounding of other formats on top.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from mistakes import roles_to_audit, sample_of, texts_to_audit
from wrong_vectors import SENTENCE_TRANSFORMERS, TRANSFORMERS, WEIGHTS, Maker

from e5.audit import AuditReport, LocalSource, audit
from e5.settings import Settings
from e5.vectors import Vectors

NOISE: Mapping[str, Callable[[Vectors], Vectors]] = {
    "float32": lambda v: v,
    "float16": lambda v: v.astype(np.float16),
    "normalised float16": lambda v: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(
        np.float16
    ),
    "bfloat16": lambda v: torch.tensor(v).bfloat16().float().numpy(),
    "int8": lambda v: np.rint(v / np.abs(v).max(1, keepdims=True) * 127),
    "int8, one scale, decoded": lambda v: np.rint(v / np.abs(v).max() * 127) / 127,
}


@pytest.fixture(scope="module")
def source() -> LocalSource:
    return LocalSource.load(Settings(weights=WEIGHTS, device="cpu"))


def judged(source: LocalSource, maker: Maker, count: int, noise: str, seed: int) -> AuditReport:
    texts, roles = texts_to_audit(count, seed=seed, long=count // 6), roles_to_audit(count)
    vectors = NOISE[noise](maker.make(texts, roles))
    return audit(sample_of(texts, roles, vectors), source)


@pytest.mark.parametrize("maker", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_what_transformers_makes_is_named(source: LocalSource, maker: Maker) -> None:
    report = judged(source, maker, 12, "float32", 0)
    assert report.verdict == maker.verdict
    assert report.exit_code == (maker.verdict != "right")


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("maker", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_it_is_named_in_other_formats(source: LocalSource, maker: Maker, noise: str) -> None:
    for count, seed in ((8, 1), (24, 2)):
        assert judged(source, maker, count, noise, seed).verdict == maker.verdict


@pytest.mark.slow
@pytest.mark.parametrize("maker", SENTENCE_TRANSFORMERS.values(), ids=SENTENCE_TRANSFORMERS)
def test_what_sentence_transformers_makes_is_named(source: LocalSource, maker: Maker) -> None:
    assert judged(source, maker, 16, "float32", 0).verdict == maker.verdict
