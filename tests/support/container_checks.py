"""What containers are asked in tests, and whether the answers are right."""

import tempfile
from pathlib import Path
from typing import TypeAlias

import numpy as np
from containers import ROOT, Container

Expected: TypeAlias = list[list[float]]

FOLDER = Path(tempfile.gettempdir()) / "e5-containers"  # is kept: the next run builds from caches
MINI = ROOT / "weights" / "e5-mini"
TEXTS = ["what is snow", "Frozen water.", "A kind of car.", "\N{SNOWMAN} \u05e9\u05dc\u05d5\u05dd"]
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
FLOAT32 = {"E5_DTYPE": "float32"}
# What an image that serves the 7B model on a card needs to serve the built-in checkpoint without.
ON_A_CPU = {**FLOAT32, "E5_DEVICE": "cpu"}


def assert_right(container: Container, expected: Expected) -> None:
    """The container's vectors of `TEXTS` are the expected ones, by a cosine of 0.999999."""
    answer = container.predict(documents=TEXTS)
    assert answer["status"] == "succeeded", answer
    found, right = np.array(answer["output"]["embeddings"]), np.array(expected)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    assert ((found * right).sum(axis=1) / lengths >= 0.999999).all()
