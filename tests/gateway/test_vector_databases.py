"""Vector databases that embed for their users: what they store is right, and what they search for.

LanceDB is installed with the others. Chroma is installed apart, with what its import needs and
nothing of its servers: 110 MB instead of 500. The functions of both are other clients' that are
tested by themselves, so all of it is among the long tests.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from apart import installed_apart
from gateway_server import GatewayServer, hang_up, serve_gateway
from gateway_tools import cosines
from lines import line_by_line
from pydantic import create_model

from e5.embedder import Embedder

pytestmark = [
    pytest.mark.slow,  # starts a server
    pytest.mark.long,
    # Their clients keep connections until they are collected.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

QUERY = "how much protein should a female eat"
DOCUMENTS = ["Women aged 19 to 70 need 46 grams of protein a day.", "Éclair 😀 مرحبا", "a\nlist"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayServer]:
    """LanceDB makes tables only for OpenAI's names of models, whose dimensions it knows."""
    names = ("text-embedding-3-small=e5-mini", "text-embedding-3-large=e5-mini-query")
    with serve_gateway("--alias", names[0], "--alias", names[1]) as running:
        yield running
        hang_up(running)


# LanceDB


@pytest.fixture
def registry(gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """LanceDB's embedding functions; their clients read where to ask from the environment."""
    embeddings = pytest.importorskip("lancedb.embeddings")
    for name in ("OPENAI_API_KEY", "COHERE_API_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("CO_API_URL", gateway.url)
    return embeddings.get_registry()


def rows_right(found: Any, truth: Any) -> bool:
    return bool(cosines({"vectors": np.array(found).tolist()}, truth).min() >= 0.999999)


def test_lancedb_s_openai_embeds_a_table(
    registry: Any, gateway: GatewayServer, python: Embedder, tmp_path: Any
) -> None:
    lancedb = pytest.importorskip("lancedb")
    pydantic = pytest.importorskip("lancedb.pydantic")
    options = {"base_url": f"{gateway.url}/v1", "dim": python.dimensions, "max_retries": 0}
    function = registry.get("openai").create(name="text-embedding-3-small", **options)
    schema = create_model(
        "Row",
        __base__=pydantic.LanceModel,
        text=(str, function.SourceField()),
        vector=(pydantic.Vector(function.ndims()), function.VectorField()),
    )
    table = lancedb.connect(tmp_path).create_table("documents", schema=schema)
    table.add([{"text": text} for text in DOCUMENTS])
    stored = {row["text"]: row["vector"] for row in table.to_arrow().to_pylist()}
    assert rows_right([stored[text] for text in DOCUMENTS], python.encode_document(DOCUMENTS))
    # It sends a query as it sends documents, so queries need a function of their own.
    queries = registry.get("openai").create(name="text-embedding-3-large", **options)
    vector = queries.compute_query_embeddings(QUERY)[0]
    assert rows_right([vector], python.encode_query([QUERY]))
    assert table.search(np.array(vector)).limit(1).to_list()[0]["text"] == DOCUMENTS[0]


def test_lancedb_s_cohere_says_what_a_query_is(registry: Any, python: Embedder) -> None:
    function = registry.get("cohere").create(name="e5-mini", max_retries=0)
    found = function.compute_source_embeddings(DOCUMENTS)
    assert rows_right(found, python.encode_document(DOCUMENTS))
    found = function.compute_query_embeddings(QUERY)
    assert rows_right(found, python.encode_query([QUERY]))


# Chroma

CHROMA = (
    "chromadb==1.5.9",
    # what it imports
    "googleapis-common-protos==1.76.0",
    "grpcio==1.85.3",
    "opentelemetry-api==1.45.2",
    "opentelemetry-exporter-otlp-common==0.66b2",
    "opentelemetry-exporter-otlp-proto-common==1.45.2",
    "opentelemetry-exporter-otlp-proto-grpc==1.45.2",
    "opentelemetry-proto==1.45.2",
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-semantic-conventions==0.66b2",
    "pybase64==1.5.1",
    # the clients behind its functions
    "google-auth==2.63.0",
    "google-genai==3.6.1",
    "ollama==0.6.3",
)
ASK = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import chromadb
from chromadb.utils import embedding_functions

url, names = sys.argv[1], {"document": "e5-mini", "query": "e5-mini-query"}
os.environ |= {"CO_API_URL": url, "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": "any"}


def function_of(kind, side):
    name = names[side]
    if kind == "openai":
        return embedding_functions.OpenAIEmbeddingFunction(
            api_key="any", api_base=f"{url}/v1", model_name=name
        )
    if kind == "hugging_face":
        return embedding_functions.HuggingFaceEmbeddingServer(url=f"{url}/embed")
    if kind == "cohere":
        return embedding_functions.CohereEmbeddingFunction(api_key="any", model_name="e5-mini")
    if kind == "ollama":
        return embedding_functions.OllamaEmbeddingFunction(url=url, model_name=name)
    return embedding_functions.GoogleGeminiEmbeddingFunction(
        model_name="e5-mini", task_type=f"RETRIEVAL_{side.upper()}"
    )


for line in sys.stdin:
    kind, side, texts = json.loads(line).values()
    try:
        function = function_of(kind, side)
        if side == "query":
            vectors = [list(map(float, row)) for row in function(texts)]
        else:
            client = chromadb.EphemeralClient()
            collection = client.create_collection(kind, embedding_function=function)
            ids = [str(i) for i in range(len(texts))]
            collection.add(ids=ids, documents=texts)
            vectors = collection.get(ids=ids, include=["embeddings"])["embeddings"].tolist()
        answer = {"vectors": vectors}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""
# Those that cannot say what a query is: the model's name or the task says it, or nothing can.
QUERIES = ["openai", "ollama", "google"]
AnswerOf = Callable[[str, str, list[str]], dict[str, Any]]


@pytest.fixture(scope="module")
def chroma(gateway: GatewayServer) -> Iterator[AnswerOf]:
    """Embeds by one of Chroma's functions; documents are those that its collection stored."""
    command = [sys.executable, "-c", ASK, gateway.url]
    environment = os.environ | {"PYTHONPATH": str(installed_apart(*CHROMA))}
    environment["ANONYMIZED_TELEMETRY"] = "False"
    with line_by_line(command, environment) as answer_of_line:
        yield lambda kind, side, texts: answer_of_line({"kind": kind, "side": side, "texts": texts})


@pytest.mark.parametrize("kind", ["openai", "hugging_face", "cohere", "ollama", "google"])
def test_chroma_s_collections_hold_the_right_vectors(
    kind: str, chroma: AnswerOf, python: Embedder
) -> None:
    texts = [*DOCUMENTS, *(f"note {i} of day {i * 7919 % 2048}" for i in range(100))]
    answer = chroma(kind, "document", texts)
    assert cosines(answer, python.encode_document(texts)).min() >= 0.999999


@pytest.mark.parametrize("kind", QUERIES)
def test_chroma_s_functions_embed_queries(kind: str, chroma: AnswerOf, python: Embedder) -> None:
    answer = chroma(kind, "query", [QUERY])
    assert cosines(answer, python.encode_query([QUERY])).min() >= 0.999999


@pytest.mark.parametrize("kind", ["openai", "ollama", "google"])
def test_chroma_s_functions_show_what_was_wrong(kind: str, chroma: AnswerOf) -> None:
    error = chroma(kind, "query", ["a", " "])["error"]
    assert re.search(r"\[1\]\S*: received blank text", error), error
