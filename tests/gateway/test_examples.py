"""The examples of docs/gateway.md run as they stand there; their queries get the right vector."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from checkpoints import load
from examples import Ran, run_examples
from gateway_server import WEIGHTS, GatewayServer
from server import ROOT

PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CURL = re.search(r"\$ (curl localhost:8080.*?)```", PAGE, re.DOTALL)
# What tells an example from the others: `openai import OpenAI`.
IMPORTED = [re.findall(r"^(?:from|import) (.+)", code, re.MULTILINE)[0] for code in EXAMPLES]
TELL = """
import json
def first(found):  # vector in what a client returns
    if hasattr(found, "tolist"):
        found = found.tolist()
    if isinstance(found, list):
        return found if isinstance(found[0], float) else first(found[0])
    if isinstance(found, dict):
        return first(found["embedding"])
    names = ("data", "embeddings", "embedding", "float_")
    return first(next(getattr(found, name) for name in names if hasattr(found, name)))
print(json.dumps(first(query) if "query" in vars() else None))
"""


LONG_CLIENTS = {  # another one stands for their families, or their import takes many seconds
    "langchain_nvidia_ai_endpoints",
    "litellm",
    "llama_index.embeddings.openai_like",
    "mteb.models",
}


@pytest.fixture(scope="module")
def ran(gateway: GatewayServer) -> Callable[[bool], dict[str, Ran]]:
    """Runs the examples of clients that are installed, the long ones or the others, once."""

    @cache
    def run(long: bool) -> dict[str, Ran]:
        names = [name for name in IMPORTED if is_long(name) == long and is_installed(name)]
        codes = [EXAMPLES[IMPORTED.index(name)] + TELL for name in names]
        asked, refused = gateway.counted(), gateway.counted(status="400")
        ran = run_examples([code.replace("http://127.0.0.1:8080", gateway.url) for code in codes])
        assert gateway.counted(status="400") == refused
        assert gateway.counted() - asked >= sum("query =" in code for code in codes)
        return dict(zip(names, ran, strict=True))

    return run


def is_long(imported: str) -> bool:
    return imported.split()[0] in LONG_CLIENTS


def is_installed(imported: str) -> bool:
    with suppress(ModuleNotFoundError):  # of a package that it is in
        return find_spec(imported.split()[0]) is not None
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "imported",
    [pytest.param(name, marks=pytest.mark.long) if is_long(name) else name for name in IMPORTED],
)
def test_an_example_gives_the_querys_vector(
    imported: str, ran: Callable[[bool], dict[str, Ran]]
) -> None:
    example = ran(is_long(imported)).get(imported)
    if example is None:
        pytest.skip("its client is not installed")
    assert not example.error
    vector: Any = json.loads(example.printed.splitlines()[-1])
    if vector is None:
        assert "query =" not in EXAMPLES[IMPORTED.index(imported)]
        return
    truth = load(WEIGHTS).encode_query("what is snow", normalize=True)
    assert np.dot(vector, truth) / np.linalg.norm(vector) > 0.999999


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_so_does_the_line_for_curl(gateway: GatewayServer) -> None:
    assert CURL
    line = CURL[1].replace("localhost:8080", gateway.url)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["data"]
    truth = load(WEIGHTS).encode_query("what is snow", normalize=True)
    assert np.dot(row["embedding"], truth) > 0.999999
