"""Real JavaScript clients at the real gateway: the right vectors, in order, nothing asked twice.

They are installed once, into .venv, in the versions of node/package-lock.json. Skipped where there
is no Node, or no network at first.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_server import GatewayServer
from gateway_tools import cosines
from lines import line_by_line

from e5.embedder import Embedder

NODE, NPM = shutil.which("node"), shutil.which("npm")
FOLDER = Path(__file__).parent / "node"
INSTALLED = Path(__file__).parents[2] / ".venv/node"
pytestmark = [
    pytest.mark.slow,  # starts a server
    pytest.mark.skipif(None in (NODE, NPM), reason="Node.js and npm are not installed"),
]

QUERY = "how much protein should a female eat"
DOCUMENTS = ["Women aged 19 to 70 need 46 grams of protein a day.", "Éclair 😀 مرحبا", "a\nlist"]
MANY = [f"note {i} of day {i * 7919 % 2048}" for i in range(2048)]
AnswerOf = Callable[[str, str, list[str]], dict[str, Any]]
CLIENTS = [
    *("openai", "cohere_v1", "cohere_v2", "ai_sdk", "langchain"),
    *("azure_openai", "replicate", "replicate_polled"),
]
# The others put many texts into requests as one of these does.
SPLITTING_CLIENTS = ["openai", "cohere_v2", "langchain"]
MANY_CLIENTS = [
    client if client in SPLITTING_CLIENTS else pytest.param(client, marks=pytest.mark.long)
    for client in CLIENTS
]


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder of the clients."""
    lock = (FOLDER / "package-lock.json").read_bytes()
    stamp = INSTALLED / "installed-lock.json"
    if not stamp.is_file() or stamp.read_bytes() != lock:
        INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(FOLDER / name, INSTALLED)
        command = [str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm cannot install the clients: {done.stderr.strip().splitlines()[-1]}")
        stamp.write_bytes(lock)
    return INSTALLED / "node_modules"


@pytest.fixture(scope="module")
def answer_of(modules: Path, gateway: GatewayServer) -> Iterator[AnswerOf]:
    """Asks a client; its vectors, or its error. One process has all clients."""
    command = [str(NODE), str(FOLDER / "clients.cjs")]
    environment = os.environ | {"NODE_PATH": str(modules)}
    with line_by_line(command, environment) as answer_of_line:

        def ask(client: str, role: str, texts: list[str]) -> dict[str, Any]:
            return answer_of_line(
                {"client": client, "url": gateway.url, "role": role, "texts": texts}
            )

        yield ask


@pytest.mark.parametrize("client", CLIENTS)
def test_a_query_is_embedded_as_a_query(client: str, answer_of: AnswerOf, python: Embedder) -> None:
    answer = answer_of(client, "query", [QUERY])
    assert cosines(answer, python.encode_query([QUERY])).min() >= 0.999999
    assert cosines(answer, python.encode_document([QUERY])).max() < 0.99


@pytest.mark.parametrize("client", CLIENTS)
def test_documents_are_embedded_as_documents(
    client: str, answer_of: AnswerOf, python: Embedder
) -> None:
    answer = answer_of(client, "document", DOCUMENTS)
    assert cosines(answer, python.encode_document(DOCUMENTS)).min() >= 0.999999


@pytest.mark.parametrize("client", MANY_CLIENTS)
def test_2048_texts_keep_their_order(client: str, answer_of: AnswerOf, python: Embedder) -> None:
    answer = answer_of(client, "document", MANY)
    assert cosines(answer, python.encode_document(MANY)).min() >= 0.999999


@pytest.mark.parametrize("client", CLIENTS)
def test_a_bad_text_costs_one_request_and_is_named(
    client: str, answer_of: AnswerOf, gateway: GatewayServer
) -> None:
    before, refused = gateway.counted(), gateway.counted(status="400")
    assert "[1]: received blank text" in answer_of(client, "document", ["a", " "])["error"]
    assert gateway.counted() - before == 1
    assert gateway.counted(status="400") - refused == 1
