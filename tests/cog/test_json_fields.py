"""An answer is the same JSON whoever writes it, and each of its float32 numbers comes back."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from e5.cog.json_fields import JsonFields, patch_json_dumps

ANSWER: dict[str, Any] = {
    "embeddings": np.array([[1.5, -2.0], [0.25, 3.0]], np.float32),
    "score": np.float32(42.5),
    "usage": {"tokens": [7, 3], "truncated": [False, True]},
    "model": "e5@0123 \N{SNOWMAN}",
    "scores": None,
}
PLAIN = {**ANSWER, "embeddings": [[1.5, -2.0], [0.25, 3.0]], "score": 42.5}


def every_kind_of_float32() -> NDArray[np.float32]:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    edges = [0.0, -0.0, 1.0, 9.9999999e-5, 1e-45, 1.17549435e-38, 3.4028235e38, -1e10, 16777216.0]
    tens = (10.0 ** np.arange(-44, 39)).astype(np.float32)
    near = [np.nextafter(tens, np.float32(0)), np.nextafter(tens, np.float32(np.inf))]
    values = np.concatenate([bits, np.array(edges, np.float32), tens, *near], dtype=np.float32)
    finite: NDArray[np.float32] = values[np.isfinite(values)]
    return finite


def test_json_itself_and_to_json_write_the_same() -> None:
    assert json.loads(json.dumps(JsonFields(ANSWER))) == PLAIN
    assert json.loads(JsonFields(ANSWER).to_json()) == PLAIN


@pytest.mark.parametrize("write", [json.dumps, JsonFields.to_json])
def test_every_float32_comes_back(write: Any) -> None:
    values = every_kind_of_float32()
    read = json.loads(write(JsonFields(numbers=values)))["numbers"]
    assert np.array(read, np.float32).tobytes() == values.tobytes()


def test_to_json_writes_at_most_nine_digits() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for number in JsonFields(numbers=values).to_json()[12:-2].split(","):
        assert len(number.lstrip("-0.").replace(".", "").split("e")[0]) <= 9, number


def test_json_dumps_writes_fields_quickly_and_all_else_as_ever() -> None:
    plain = getattr(json.dumps, "__wrapped__", json.dumps)  # another test may have patched it
    json.dumps = plain
    try:
        patch_json_dumps()
        patched = json.dumps
        patch_json_dumps()  # a second time changes nothing
        assert json.dumps is patched is not plain
        assert json.dumps(JsonFields(ANSWER)) == JsonFields(ANSWER).to_json()
        assert json.dumps(JsonFields(ANSWER), indent=1) == plain(PLAIN, indent=1)
        for other in (PLAIN, [1.5, None], "\N{SNOWMAN}", {"b": 1, "a": float("nan")}):
            assert json.dumps(other) == plain(other)
        assert json.dumps({"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'
        with pytest.raises(TypeError, match="not JSON serializable"):
            json.dumps(object())
    finally:
        json.dumps = plain


def test_importing_changes_nothing() -> None:
    code = "import json; old = json.dumps; import e5.cog.json_fields; assert json.dumps is old"
    subprocess.run([sys.executable, "-c", code], check=True)
