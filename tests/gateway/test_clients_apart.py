"""Real clients that cannot be installed beside the others: the newer cohere, an older Hugging Face.

Each is installed alone, without what it needs, which is there already; and asked by a process of
its own. Skipped where pip cannot have it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_server import GatewayServer
from gateway_tools import cosines

from e5.embedder import Embedder

pytestmark = pytest.mark.slow  # starts a server

INSTALLED = Path(__file__).parents[2] / ".venv/apart"
QUERY = "how much protein should a female eat"
DOCUMENTS = ["Women aged 19 to 70 need 46 grams of protein a day.", "Éclair 😀 مرحبا", "a\nlist"]
MANY = [f"note {i} of day {i * 7919 % 2048}" for i in range(2048)]

COHERE = """
def embed(role, texts):
    import cohere
    client = cohere.{client}(api_key="any", base_url=url)
    answer = client.embed(
        texts=texts, model="e5-mini", input_type=f"search_{{role}}", embedding_types=["float"]
    )
    return answer.embeddings.float_
"""
HUGGING_FACE = """
def embed(role, texts):
    from huggingface_hub import InferenceClient
    client = InferenceClient(model=url)
    name = "query" if role == "query" else None
    return client.feature_extraction(texts, prompt_name=name).tolist()
"""
ASK = """
import json, sys
asked = json.load(sys.stdin)
url = asked["url"]
{embed}
try:
    told = {{"vectors": embed(asked["role"], asked["texts"])}}
except Exception as error:
    told = {{"error": str(error)}}
json.dump(told, sys.stdout)
"""
CLIENTS = {  # what is installed, and how it is asked
    "cohere 7.3.1, version 1": ("cohere==7.3.1", COHERE.format(client="Client")),
    "cohere 7.3.1, version 2": ("cohere==7.3.1", COHERE.format(client="ClientV2")),
    "huggingface_hub 1.33.0": ("huggingface_hub==1.33.0", HUGGING_FACE),
}


def folder_of(requirement: str) -> Path:
    folder = INSTALLED / requirement
    if not (folder / ".installed").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        done = subprocess.run(
            [*command, "--target", str(folder), requirement], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"pip cannot install {requirement}: {done.stderr.strip()[-200:]}")
        (folder / ".installed").touch()
    return folder


def answer_of(client: str, gateway: GatewayServer, role: str, texts: list[str]) -> dict[str, Any]:
    requirement, embed = CLIENTS[client]
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(embed=embed)],
        input=json.dumps({"url": gateway.url, "role": role, "texts": texts}),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(folder_of(requirement))},
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("client", CLIENTS)
def test_queries_documents_and_their_order(
    client: str, gateway: GatewayServer, python: Embedder
) -> None:
    answer = answer_of(client, gateway, "query", [QUERY])
    assert cosines(answer, python.encode_query([QUERY])).min() >= 0.999999
    assert cosines(answer, python.encode_document([QUERY])).max() < 0.99
    texts = [*DOCUMENTS, *MANY[: 2048 - len(DOCUMENTS)]]
    answer = answer_of(client, gateway, "document", texts)
    assert cosines(answer, python.encode_document(texts)).min() >= 0.999999


@pytest.mark.parametrize("client", CLIENTS)
def test_a_bad_text_costs_one_request_and_is_named(client: str, gateway: GatewayServer) -> None:
    before, refused = gateway.counted(), gateway.counted(status="400")
    assert "[1]: received blank text" in answer_of(client, gateway, "document", ["a", " "])["error"]
    assert gateway.counted() - before == 1
    assert gateway.counted(status="400") - refused == 1
