"""The examples of docs/adapters.md print what the page says."""

import re
from functools import cache
from importlib.util import find_spec

import pytest
from examples import Ran, run_examples
from server import ROOT

PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
# By what is imported first.
CODES = {code.split()[1].split(".")[0]: code for code, _ in EXAMPLES}
PRINTED = dict(zip(CODES, (printed for _, printed in EXAMPLES), strict=True))
MTEB = "mteb"
OTHERS = tuple(framework for framework in CODES if framework != MTEB)


def test_there_is_one_for_each_framework() -> None:
    modules = {path.stem for path in (ROOT / "e5" / "adapters").glob("[a-z]*.py")}
    shown = [re.findall(r"from e5\.adapters\.(\w+) import", code) for code, _ in EXAMPLES]
    assert sorted(shown) == sorted([module] for module in modules)


@cache
def run_together(frameworks: tuple[str, ...], service: str) -> dict[str, Ran]:
    """Runs the examples of those frameworks that are installed."""
    names = [name for name in frameworks if find_spec(name) is not None]
    codes = [CODES[name].replace("http://127.0.0.1:5000", service) for name in names]
    return dict(zip(names, run_examples(codes), strict=True))


def check(framework: str, among: tuple[str, ...], service: str) -> None:
    found = run_together(among, service)
    if framework not in found:
        pytest.skip("its framework is not installed")
    assert found[framework].printed == PRINTED[framework], found[framework].error


@pytest.mark.slow
@pytest.mark.parametrize("framework", OTHERS)
def test_an_example_prints_what_the_page_says(framework: str, service: str) -> None:
    check(framework, OTHERS, service)


@pytest.mark.slow
@pytest.mark.long  # tests/adapters/test_mteb.py has the same check of mteb's, without a server
def test_so_does_that_of_mteb(service: str) -> None:
    check(MTEB, (MTEB,), service)
