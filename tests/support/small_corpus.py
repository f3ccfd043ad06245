"""A small training corpus, its tokenizer and batches, and a student, for tests of the training."""

from functools import cache

import numpy as np
from tokenizers import Tokenizer
from transformers import MistralModel

from training import sources
from training.batches import BatchSampler
from training.student import new_student, unit
from training.texts import Corpus, LeakDetector
from training.vocabulary import build_tokenizer

VOCABULARY = 2048


@cache
def corpus() -> Corpus:
    """A twentieth of the project's own writing, as every kind of pair."""
    pairs = sources.written()
    groups = sorted({pair.group for pair in pairs})[::20]
    found = Corpus()
    for kind in ("written", "debian", "wordnet"):
        found.add_pairs(kind, [pair for pair in pairs if pair.group in groups], LeakDetector())
    found.fillers = [p for _, passages, _ in found.pairs["written"] for p in passages]
    return found


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of the corpus."""
    return build_tokenizer(corpus().texts, ["the", "of", "water"], VOCABULARY)


@cache
def batches() -> BatchSampler:
    """The batches of the corpus, labelled at random."""
    rng = np.random.default_rng(0)
    labels = unit(rng.standard_normal((len(corpus().texts), 192)).astype(np.float32))
    return BatchSampler(corpus(), labels, [], tokenizer())


def student(seed: int) -> MistralModel:
    """A new student, each piece of its vocabulary in a random direction."""
    rng = np.random.default_rng(seed)
    return new_student(unit(rng.standard_normal((VOCABULARY, 192)).astype(np.float32)))
