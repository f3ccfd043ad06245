"""Vectors made wrong by other libraries are named, and those that they make right are right.

Each is judged as it comes, and with the rounding of other formats on top.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from mistakes import roles_to_audit, sample_of, texts_to_audit
from numpy.typing import NDArray
from wrong_vectors import ADAPTERS, SENTENCE_TRANSFORMERS, TRANSFORMERS, Maker

from e5.audit import AuditReport, LocalSource, audit
from e5.vectors import Vectors

NOISE: Mapping[str, Callable[[Vectors], NDArray[np.generic]]] = {
    "float32": lambda v: v,
    "float16": lambda v: v.astype(np.float16),
    "normalised float16": lambda v: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(
        np.float16
    ),
    "bfloat16": lambda v: torch.tensor(v).bfloat16().float().numpy(),
    "int8": lambda v: np.rint(v / np.abs(v).max(1, keepdims=True) * 127),
    "int8, one scale, decoded": lambda v: np.rint(v / np.abs(v).max() * 127) / 127,
}
MAKERS = TRANSFORMERS | SENTENCE_TRANSFORMERS | ADAPTERS
# What costs little and differs most. `scripts/test --long` judges all of them.
IN_EVERY_RUN = {
    *("as the card says", "default ids", "special tokens"),
    *("no prompts", "right padding, read at -1", "with no prompts", "its bits"),
}
ROUNDED_IN_EVERY_RUN = {("as the card says", "int8"), ("default ids", "float16")}


def cases(*others: str) -> Iterator[object]:
    """Every maker with a noise; those that are judged in every run are slow, the rest long."""
    for name in [name for name in MAKERS if not (others and MAKERS[name].rounded)]:
        for noise in others or ("float32",):
            often = (name, noise) in ROUNDED_IN_EVERY_RUN if others else name in IN_EVERY_RUN
            mark = pytest.mark.slow if often else pytest.mark.long
            case = (MAKERS[name], noise) if others else (MAKERS[name],)
            yield pytest.param(*case, marks=mark, id=f"{name}, {noise}" if others else name)


def judged(mini: LocalSource, maker: Maker, count: int, noise: str, seed: int) -> AuditReport:
    texts, roles = texts_to_audit(count, seed=seed, long=count // 6), roles_to_audit(count)
    vectors = NOISE[noise](maker.make(texts, roles))
    return audit(sample_of(texts, roles, vectors), mini, progress=False)


@pytest.mark.parametrize("maker", list(cases()))
def test_it_is_named(mini: LocalSource, maker: Maker) -> None:
    report = judged(mini, maker, 16, "float32", 0)
    assert report.verdict == maker.verdict
    assert report.exit_code == {"right": 0, "unknown": 2}.get(maker.verdict, 1)


@pytest.mark.parametrize(("maker", "noise"), list(cases(*list(NOISE)[1:])))
def test_it_is_named_in_other_formats(mini: LocalSource, maker: Maker, noise: str) -> None:
    verdict = judged(mini, maker, 24, noise, 2).verdict
    found, made = set(verdict.split(" + ")), set(maker.verdict.split(" + "))
    if "int8" in noise and len(made) >= 4:  # its rounding hides what the smallest of them change
        assert verdict == "unknown" or found <= made
    else:
        assert found == made


@pytest.mark.long
@pytest.mark.parametrize("count", [8, 64, 256])
@pytest.mark.parametrize("name", ["default ids", "its maximum length", "LangChain's default"])
def test_it_is_named_on_few_texts_and_on_many(mini: LocalSource, name: str, count: int) -> None:
    assert judged(mini, MAKERS[name], count, "float32", count).verdict == MAKERS[name].verdict
