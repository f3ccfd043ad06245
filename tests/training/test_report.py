"""What lies beside the weights tells the truth of them."""

import doctest
import json
from pathlib import Path

from training import report

MINI = Path(__file__).parents[2] / "weights/e5-mini"


def test_shipped_weights_are_small_and_what_their_readme_says() -> None:
    manifest = json.loads((MINI / "manifest.json").read_text())
    readme = (MINI / "README.md").read_text()
    assert manifest["files"].keys() == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for digest in manifest["files"].values():
        assert digest in readme
    assert sum(file.stat().st_size for file in MINI.iterdir()) < 10_000_000


def test_a_table_is_what_its_example_says() -> None:
    result = doctest.testmod(report, raise_on_error=True)
    assert (result.attempted, result.failed) == (1, 0)
