"""How the HTTP tests send requests: the service's settings, texts, and one prediction at a time."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from server import Server

from e5.errors import E5Error
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


def refused(server: Server, inputs: Mapping[str, Any]) -> tuple[str, E5Error]:
    """The sentence that refuses these inputs, and the error that came with it as data.

    The server must answer a good request after it.
    """
    answer = server.predict(inputs)
    assert answer["status"] == "failed", answer
    assert answer.get("output") is None
    sentence: str = answer["error"]
    assert "Traceback" not in json.dumps(answer)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    error = E5Error.from_dict(answer["metrics"]["error"])
    assert error is not None, answer["metrics"]
    assert error.to_dict() == answer["metrics"]["error"], "nothing had to be removed from it"
    assert output_of(server, document="still here", dimensions=1)["embeddings"]
    return sentence, error


def vectors_of(output: dict[str, Any]) -> Vectors:
    """float32 `[num_texts, dimensions]`, as a caller reads them."""
    return np.array(output["embeddings"], np.float32)


def some_texts(count: int, words: int, chance: random.Random) -> list[str]:
    """Random texts of so many words each."""
    return [" ".join(chance.choices(WORDS, k=words)) for _ in range(count)]
