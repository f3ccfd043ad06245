"""The examples of docs/adapters.md print what the page says. Knows no framework."""

import os
import re
import subprocess
import sys

import pytest
from server import ROOT

PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
FRAMEWORKS = [code.split()[1].split(".")[0] for code, _ in EXAMPLES]  # what is imported first


def test_there_is_one_for_each_framework() -> None:
    modules = {path.stem for path in (ROOT / "e5" / "adapters").glob("[a-z]*.py")}
    shown = [re.findall(r"from e5\.adapters\.(\w+) import", code) for code, _ in EXAMPLES]
    assert sorted(shown) == sorted([module] for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=FRAMEWORKS)
def test_an_example_prints_what_the_page_says(code: str, printed: str, service: str) -> None:
    pytest.importorskip(code.split()[1], reason="its framework is not installed")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:5000", service)],
        cwd=ROOT,
        env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == printed, done.stderr
