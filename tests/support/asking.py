"""How the HTTP tests ask: the service's settings, texts, and one prediction at a time.

Knows the shape of an answer. Knows nothing of how the server is run.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
from server import Server

from e5.vectors import Vectors

WEIGHTS = Path("weights/e5-mini")
SETTINGS = {"E5_DEVICE": "cpu", "E5_DTYPE": "float32"}
QUERY = "how much protein should a female eat"
DOCUMENT = "As a general guideline, women aged 19 to 70 need 46 grams of protein a day."
WORDS = [
    *("river", "stone", "amber", "quiet", "lantern", "orbit", "maple", "velvet", "copper"),
    *("winter", "signal", "harbor", "meadow", "thunder", "pepper", "saddle", "window", "garden"),
    *("silver", "basket"),
]


def output_of(server: Server, **inputs: Any) -> dict[str, Any]:
    """The output of a prediction that succeeds."""
    answer = server.predict(inputs)
    assert answer["status"] == "succeeded", answer
    output: dict[str, Any] = answer["output"]
    return output


def vectors_of(output: dict[str, Any]) -> Vectors:
    """float32 `[num_texts, dimensions]`, as a caller reads them."""
    return np.array(output["embeddings"], np.float32)


def some_texts(count: int, words: int, chance: random.Random) -> list[str]:
    """Random ones of so many words each."""
    return [" ".join(chance.choices(WORDS, k=words)) for _ in range(count)]
