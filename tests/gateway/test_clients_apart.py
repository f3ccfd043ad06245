"""Real clients that are not installed beside the others: some clash, some are only tried here.

Each is installed alone, without what it needs, which is there already; and asked in a process of
its own. Skipped where pip cannot have it.
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apart import installed_apart
from gateway_server import GatewayServer
from gateway_tools import cosines
from lines import line_by_line

from e5.embedder import Embedder

pytestmark = pytest.mark.slow  # starts a server

QUERY = "how much protein should a female eat"
DOCUMENTS = ["Women aged 19 to 70 need 46 grams of protein a day.", "Éclair 😀 مرحبا", "a\nlist"]
MANY = [f"note {i} of day {i * 7919 % 2048}" for i in range(200)]  # three requests of cohere's

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
REPLICATE = """
def embed(role, texts):
    import replicate
    client = replicate.{client}
    inputs = {{"queries" if role == "query" else "documents": texts, "normalize": True}}
    return client.run("you/e5-mini{version}", input=inputs)["embeddings"]
"""
OLD_REPLICATE, NEW_REPLICATE = (
    'Client(api_token="any", base_url=url)',
    'Replicate(bearer_token="any", base_url=url + "/v1")',
)
AZURE = """
def embed(role, texts):
    from azure.ai.inference import EmbeddingsClient
    from azure.core.credentials import AzureKeyCredential
    model = "e5-mini-query" if role == "query" else "e5-mini"
    client = EmbeddingsClient(url + "/models", AzureKeyCredential("any"), model=model)
    return [row.embedding for row in client.embed(input=texts).data]
"""
ASK = """
import json, sys
url = sys.argv[1]
{embed}
for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {{"vectors": embed(asked["role"], asked["texts"])}}
    except Exception as error:
        answer = {{"error": str(error)}}
    print(json.dumps(answer), flush=True)
"""
CLIENTS = {  # what is installed, and how it is asked
    "cohere 7.3.1, version 1": ("cohere==7.3.1", COHERE.format(client="Client")),
    "cohere 7.3.1, version 2": ("cohere==7.3.1", COHERE.format(client="ClientV2")),
    "huggingface_hub 1.33.0": ("huggingface_hub==1.33.0", HUGGING_FACE),
    "azure-ai-inference 1.0.0b9": (
        "azure-ai-inference==1.0.0b9 azure-core==1.41.0 isodate==0.7.2",
        AZURE,
    ),
    "replicate 1.0.7, by model": (
        "replicate==1.0.7",
        REPLICATE.format(client=OLD_REPLICATE, version=""),
    ),
    "replicate 1.0.7, by version": (
        "replicate==1.0.7",
        REPLICATE.format(client=OLD_REPLICATE, version=":" + 64 * "a"),
    ),
    "replicate 2.0.0b4": ("replicate==2.0.0b4", REPLICATE.format(client=NEW_REPLICATE, version="")),
}
# These send what another one sends.
LONG = ("replicate 1.0.7, by version", "replicate 2.0.0b4")


AnswerOf = Callable[[str, list[str]], dict[str, Any]]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in CLIENTS],
)
def answer_of(request: pytest.FixtureRequest, gateway: GatewayServer) -> Iterator[AnswerOf]:
    """Asks a client; its vectors, or its error."""
    requirement, embed = CLIENTS[request.param]
    command = [sys.executable, "-c", ASK.format(embed=embed), gateway.url]
    environment = os.environ | {"PYTHONPATH": str(installed_apart(*requirement.split()))}
    with line_by_line(command, environment) as answer_of_line:
        yield lambda role, texts: answer_of_line({"role": role, "texts": texts})


def test_queries_documents_and_their_order(answer_of: AnswerOf, python: Embedder) -> None:
    answer = answer_of("query", [QUERY])
    assert cosines(answer, python.encode_query([QUERY])).min() >= 0.999999
    assert cosines(answer, python.encode_document([QUERY])).max() < 0.99
    texts = [*DOCUMENTS, *MANY]
    assert cosines(answer_of("document", texts), python.encode_document(texts)).min() >= 0.999999


def test_a_bad_text_costs_one_request_and_is_named(
    answer_of: AnswerOf, gateway: GatewayServer
) -> None:
    before, refused = gateway.counted(), gateway.counted(status="400")
    assert "[1]: received blank text" in answer_of("document", ["a", " "])["error"]
    assert gateway.counted() - before == 1
    assert gateway.counted(status="400") - refused == 1
