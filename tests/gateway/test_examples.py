"""The examples of docs/gateway.md run as they stand there; their queries get the right vector."""

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from checkpoints import load
from gateway_server import WEIGHTS, GatewayServer
from server import ROOT

PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CURL = re.search(r"\$ (curl localhost:8080.*?)```", PAGE, re.DOTALL)
IMPORTED = [re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE)[0] for code in EXAMPLES]
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


def ran(*command: str) -> str:
    """What the command printed last."""
    environment = {**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES, ids=IMPORTED)
def test_an_example_gives_the_querys_vector(code: str, gateway: GatewayServer) -> None:
    pytest.importorskip(IMPORTED[EXAMPLES.index(code)], reason="its client is not installed")
    asked, refused = gateway.counted(), gateway.counted(status="400")
    code = code.replace("http://127.0.0.1:8080", gateway.url)
    vector: Any = json.loads(ran(sys.executable, "-c", code + TELL))
    assert gateway.counted(status="400") == refused
    if vector is None:
        assert "query =" not in code
        return
    assert gateway.counted() > asked
    truth = load(WEIGHTS).encode_query("what is snow", normalize=True)
    assert np.dot(vector, truth) / np.linalg.norm(vector) > 0.999999


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_so_does_the_line_for_curl(gateway: GatewayServer) -> None:
    assert CURL
    line = CURL[1].replace("localhost:8080", gateway.url)
    (row,) = json.loads(ran("bash", "-c", line))["data"]
    truth = load(WEIGHTS).encode_query("what is snow", normalize=True)
    assert np.dot(row["embedding"], truth) > 0.999999
