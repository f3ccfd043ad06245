"""Texts to audit, and vectors of them with a deliberate mistake, by the audit's own computations.

`wrong_vectors` has those of other libraries. Here any combination of hypotheses is made, so that a
property can be tested over all of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from e5.audit import LocalSource, Sample, TextRole
from e5.audit.hypotheses import (
    HYPOTHESES,
    OTHER_INSTRUCTIONS,
    PADDING,
    RIGHT,
    Combination,
    Hypothesis,
    PromptRules,
    combine,
    computations,
)
from e5.checkpoint import SINGLE
from e5.vectors import Vectors

WORDS = [
    *("snow", "falls", "on", "the", "mountain", "and", "melts", "in", "spring", "when", "days"),
    *("grow", "longer", "bread", "needs", "flour", "water", "salt", "a", "warm", "place", "to"),
    *("rise", "trains", "leave", "station", "every", "hour", "for", "northern", "towns", "how"),
    *("engine", "turns", "wheel", "garden", "tomato", "doctor", "window", "winter", "school"),
]


def texts_to_audit(count: int, *, seed: int = 0, long: int = 0) -> list[str]:
    """Different texts of 3 to 12 words, with capitals, line breaks, outer blanks and `</s>`.

    `long` of them have 150 words.
    """
    random = np.random.default_rng(seed)
    texts = []
    for i in range(count):
        words = [str(word) for word in random.choice(WORDS, 150 if i < long else 3 + i % 10)]
        text = f"Note {i}: {' '.join(words)}."
        if i % 4 == 1:
            text = text.replace(" ", "\n", 3)
        if i % 5 == 2:
            text = f"  \n{text}\n"
        if i % 6 == 3:
            text += " </s> Éclair"
        texts.append(text)
    return texts


def roles_to_audit(count: int) -> list[TextRole]:
    """Queries and documents in turn."""
    return ["document" if i % 2 else "query" for i in range(count)]


def combination(*labels: str) -> Combination:
    """The combination of these hypotheses, each by its label."""
    found: Combination = RIGHT
    for wanted in labels:
        hypotheses: list[Hypothesis] = [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS]
        found = combine(found, next(each for each in hypotheses if each.label == wanted)) or RIGHT
    return found


def vectors_under(
    source: LocalSource,
    chosen: Combination,
    texts: Sequence[str],
    roles: Sequence[TextRole],
    *,
    task: str = "web_search_query",
) -> Vectors:
    """What a combination gives: the first way to compute each text, of padding the seventh."""
    rules = PromptRules(source.prompts, task)
    ways = [
        computations(chosen, text, role, rules)[0] for text, role in zip(texts, roles, strict=True)
    ]
    return np.array([found[min(7, len(found) - 1)] for found in source.compute(ways)])


def sample_of(texts: Sequence[str], roles: Sequence[TextRole], vectors: NDArray[Any]) -> Sample:
    """A sample whose ids are the rows' numbers."""
    return Sample([str(i) for i in range(len(texts))], texts, vectors.astype(np.float32), roles)


def save_adapter(base: Path, folder: Path) -> Path:
    """A random LoRA adapter of all query projections, in peft's files."""
    shapes = {
        name: tensor.shape
        for name, tensor in load_file(base / SINGLE).items()
        if name.endswith("q_proj.weight")
    }
    random, tensors = torch.Generator().manual_seed(7), dict[str, torch.Tensor]()
    for name, (rows, columns) in shapes.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{layer}.lora_A.weight"] = 0.1 * torch.randn(4, columns, generator=random)
        tensors[f"{layer}.lora_B.weight"] = 0.1 * torch.randn(rows, 4, generator=random)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
