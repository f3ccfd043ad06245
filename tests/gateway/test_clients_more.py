"""What else real clients ask of the real gateway: ranks, models, tasks, fewer bits; their errors.

The truth is the Python API on the same checkpoint in the same dtype. The gateway here asks for a
key. A client that is not installed is skipped.
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gateway_server import GatewayServer, hang_up, serve_gateway
from numpy.typing import NDArray

from e5.embedder import Embedder
from e5.gateway.cohere import quantize
from e5.prompts import DEFAULT_TASK

pytestmark = [
    pytest.mark.slow,  # starts a server
    # Most clients keep their connections until they are collected, and some cannot be closed.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

QUERY = "how much protein should a female eat"
DOCUMENTS = [
    "Snow is frozen water.",
    "Women aged 19 to 70 need 46 grams of protein a day.",
    "Éclair",
]
KEY = "a key of this test"


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayServer]:
    with serve_gateway("--alias", "text-embedding-3-small=e5-mini-query", key=KEY) as running:
        yield running
        hang_up(running)


@pytest.fixture(scope="module")
def cosines(python: Embedder) -> NDArray[np.float64]:
    """Of the query with each document."""
    scores = python.similarity(python.encode_query(QUERY), python.encode_document(DOCUMENTS))
    return scores.ravel().astype(np.float64) / 100


def installed(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def openai(gateway: GatewayServer) -> Any:
    return installed("openai").OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY)


@pytest.fixture(scope="module")
def cohere(gateway: GatewayServer) -> Any:
    return installed("cohere").ClientV2(api_key=KEY, base_url=gateway.url)


@pytest.fixture(scope="module")
def cohere_v1(gateway: GatewayServer) -> Any:
    return installed("cohere").Client(api_key=KEY, base_url=gateway.url)


@pytest.fixture(scope="module")
def voyageai(gateway: GatewayServer) -> Any:
    return installed("voyageai").Client(api_key=KEY, base_url=f"{gateway.url}/v1")


@pytest.fixture(scope="module")
def hugging_face(gateway: GatewayServer) -> Any:
    return installed("huggingface_hub").InferenceClient(model=gateway.url, token=KEY)


def one_request(gateway: GatewayServer, status: str, ask: Callable[[], object]) -> str:
    """What the client says of a refusal; it must have asked once and got this status."""
    before, refused = gateway.counted(), gateway.counted(status=status)
    with pytest.raises(Exception, match=r"received|key") as raised:
        ask()
    assert gateway.counted() - before == 1
    assert gateway.counted(status=status) - refused == 1
    return str(raised.value)


# OpenAI


def test_openai_lists_the_models(openai: Any) -> None:
    names = [model.id for model in openai.models.list()]
    assert names == ["e5-mini", "e5-mini-query", "e5-mini-passage", "text-embedding-3-small"]
    assert openai.models.retrieve("e5-mini-query").id == "e5-mini-query"


def test_openai_s_model_names_can_stand_for_ours(openai: Any, python: Embedder) -> None:
    answer = openai.embeddings.create(model="text-embedding-3-small", input=QUERY)
    truth = python.encode_query(QUERY, normalize=True)
    assert np.allclose(answer.data[0].embedding, truth, atol=1e-6)


def test_openai_can_name_a_task_and_dimensions(openai: Any, python: Embedder) -> None:
    answer = openai.embeddings.create(
        model="e5-mini", input=[QUERY], dimensions=8, extra_body={"task": "SciFact"}
    )
    truth = python.encode_query([QUERY], task="SciFact", dimensions=8, normalize=True)
    assert np.allclose([answer.data[0].embedding], truth, atol=1e-6)


def test_openai_gets_tokens_prompt_and_fingerprint(openai: Any, python: Embedder) -> None:
    answer = openai.embeddings.with_raw_response.create(model="e5-mini-query", input=QUERY)
    assert answer.headers["x-e5-prompt"] == f'query "{DEFAULT_TASK}"'
    assert answer.headers["x-e5-model"] == python.name
    assert answer.headers["x-e5-truncated"] == "0/1"
    assert answer.parse().usage.total_tokens == len(
        python.tokenize(queries=[QUERY], task=DEFAULT_TASK)[0].token_ids
    )


def test_azure_s_client_sends_its_key_in_a_header_of_its_own(
    gateway: GatewayServer, python: Embedder
) -> None:
    azure = {"azure_endpoint": gateway.url, "api_version": "2024-10-21"}
    client = installed("openai").AzureOpenAI(
        api_key=KEY, azure_deployment="text-embedding-3-small", **azure
    )
    answer = client.embeddings.create(model="not-here", input=QUERY)  # the deployment counts
    truth = python.encode_query(QUERY, normalize=True)
    assert np.allclose(answer.data[0].embedding, truth, atol=1e-6)
    assert "e5-mini" in [model.id for model in client.models.list()]
    wrong = installed("openai").AzureOpenAI(api_key="wrong", **azure)
    ask = lambda: wrong.embeddings.create(model="e5-mini", input=QUERY)  # noqa: E731
    assert "the key is missing or wrong; send " in one_request(gateway, "401", ask)


def test_langchain_s_token_ids_for_azure_are_refused_with_the_setting(
    gateway: GatewayServer,
) -> None:
    tokens = [[12840, 374, 12056]]  # as its tokenizer, which it would fetch, makes them
    client = installed("langchain_openai").AzureOpenAIEmbeddings(
        azure_endpoint=gateway.url, azure_deployment="e5-mini", api_key=KEY, api_version="1"
    )
    ask = lambda: client.client.create(input=tokens, **client._invocation_params)  # noqa: E731
    assert "set check_embedding_ctx_length=False" in one_request(gateway, "400", ask)


def test_a_prompt_that_was_written_into_the_text_is_not_put_there_twice(
    openai: Any, python: Embedder
) -> None:
    text = f"Instruct: {DEFAULT_TASK}\nQuery: {QUERY}"
    answer = openai.embeddings.create(model="e5-mini-query", input=[text, QUERY])
    truth = python.encode_query([QUERY, QUERY], normalize=True)
    assert np.allclose([row.embedding for row in answer.data], truth, atol=1e-6)


def test_openai_asks_once_for_a_model_that_is_not_here(openai: Any, gateway: GatewayServer) -> None:
    ask = lambda: openai.embeddings.create(model="gpt-4", input=QUERY)  # noqa: E731
    sentence = one_request(gateway, "404", ask)
    assert 'model: received "gpt-4"; send one of e5-mini, e5-mini-query' in sentence


def test_a_contradiction_between_name_and_field_is_refused(
    openai: Any, gateway: GatewayServer
) -> None:
    sentence = one_request(
        gateway,
        "400",
        lambda: openai.embeddings.create(
            model="e5-mini-query", input=QUERY, extra_body={"input_type": "passage"}
        ),
    )
    assert "input_type" in sentence


def test_langchain_openai_s_token_ids_are_refused_with_the_remedy(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = installed("langchain_openai").OpenAIEmbeddings
    tiktoken = installed("tiktoken")
    # The real encoding is a download; any other makes the same arrays of ids.
    letters = tiktoken.Encoding(
        "letters",
        pat_str=r"(?s).+",
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={},
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: letters)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: letters)
    client = embeddings(model="e5-mini", base_url=f"{gateway.url}/v1", api_key=KEY)
    sentence = one_request(gateway, "400", lambda: client.embed_query(QUERY))
    assert "input: received token ids" in sentence
    assert "set check_embedding_ctx_length=False" in sentence


# Keys


def test_each_client_says_that_the_key_is_wrong(gateway: GatewayServer) -> None:
    asks = {
        "openai": lambda: (
            installed("openai")
            .OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong")
            .embeddings.create(model="e5-mini", input=QUERY)
        ),
        "cohere": lambda: (
            installed("cohere")
            .ClientV2(base_url=gateway.url, api_key="wrong")
            .embed(model="e5-mini", input_type="search_query", texts=[QUERY])
        ),
        "voyageai": lambda: (
            installed("voyageai")
            .Client(base_url=f"{gateway.url}/v1", api_key="wrong")
            .embed([QUERY], model="e5-mini")
        ),
        "hugging_face": lambda: (
            installed("huggingface_hub")
            .InferenceClient(model=gateway.url, token="wrong")
            .feature_extraction(QUERY)
        ),
    }
    for name, ask in asks.items():
        assert "the key is missing or wrong" in one_request(gateway, "401", ask), name


# Cohere


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")  # version 1's client
def test_cohere_gets_fewer_bits(cohere: Any, cohere_v1: Any, python: Embedder) -> None:
    truth = python.encode_document(DOCUMENTS, normalize=True)
    types = ["float", "int8", "uint8", "binary", "ubinary"]
    for client in (cohere, cohere_v1):
        answer = client.embed(
            model="e5-mini",
            input_type="search_document",
            texts=DOCUMENTS,
            embedding_types=[*types, "base64"],
        ).embeddings
        assert np.allclose(answer.float_, truth, atol=1e-6)
        for kind in types[1:]:
            # float32 on both sides, but not the same forward: a step of one is rounding
            found, steps = getattr(answer, kind), quantize(truth, kind)
            assert np.abs(np.array(found, np.int16) - steps).max() <= (1 if "int8" in kind else 0)
        written = [np.frombuffer(base64.b64decode(row), "<f4") for row in answer.base64]
        assert np.allclose(written, truth, atol=1e-6)


def test_cohere_s_inputs_and_output_dimension(cohere: Any, python: Embedder) -> None:
    answer = cohere.embed(
        model="e5-mini",
        input_type="search_query",
        inputs=[{"content": [{"type": "text", "text": QUERY}]}],
        output_dimension=8,
    )
    truth = python.encode_query([QUERY], dimensions=8, normalize=True)
    assert np.allclose(answer.embeddings.float_, truth, atol=1e-6)


# Ranks


def test_cohere_ranks(cohere: Any, cohere_v1: Any, cosines: NDArray[np.float64]) -> None:
    for client in (cohere, cohere_v1):
        rows = client.rerank(model="e5-mini", query=QUERY, documents=DOCUMENTS, top_n=2).results
        assert [row.index for row in rows] == list(np.argsort(-cosines)[:2])
        assert np.allclose([row.relevance_score for row in rows], np.sort(cosines)[:0:-1])
    objects = [{"text": text} for text in DOCUMENTS]
    rows = cohere_v1.rerank(
        model="e5-mini", query=QUERY, documents=objects, return_documents=True
    ).results
    assert [DOCUMENTS.index(row.document.text) for row in rows] == [row.index for row in rows]


def test_voyageai_ranks(voyageai: Any, cosines: NDArray[np.float64]) -> None:
    answer = voyageai.rerank(QUERY, DOCUMENTS, model="e5-mini", top_k=2)
    assert [row.index for row in answer.results] == list(np.argsort(-cosines)[:2])
    assert [row.document for row in answer.results] == [
        DOCUMENTS[i] for i in np.argsort(-cosines)[:2]
    ]
    assert np.allclose([row.relevance_score for row in answer.results], np.sort(cosines)[:0:-1])
    assert answer.total_tokens > 0


def test_a_bad_document_costs_one_request(
    cohere: Any, cohere_v1: Any, voyageai: Any, gateway: GatewayServer
) -> None:
    bad = {"model": "e5-mini", "query": QUERY, "documents": ["snow", " "]}
    for client in (cohere, cohere_v1, voyageai):
        sentence = one_request(gateway, "400", lambda rerank=client.rerank: rerank(**bad))  # type: ignore[misc]
        assert "documents[1]: received blank text; send text" in sentence


# Hugging Face


def test_hugging_face_s_options(hugging_face: Any, python: Embedder) -> None:
    found = hugging_face.feature_extraction(DOCUMENTS, normalize=False)
    assert np.allclose(found, python.encode_document(DOCUMENTS), atol=1e-4)
    found = hugging_face.feature_extraction(QUERY, prompt_name="sts_query", dimensions=8)
    truth = python.encode_query([QUERY], task="sts_query", dimensions=8, normalize=True)
    assert np.allclose(found, truth, atol=1e-6)


def test_hugging_face_compares_sentences_bare(hugging_face: Any, python: Embedder) -> None:
    found = hugging_face.sentence_similarity(QUERY, DOCUMENTS)  # it cannot name a prompt
    truth = python.similarity(python.encode_document(QUERY), python.encode_document(DOCUMENTS))
    assert np.allclose(found, truth.ravel() / 100, atol=1e-5)


# LlamaIndex


@pytest.mark.long
def test_llamaindex_s_openai_writes_line_breaks_as_spaces(
    gateway: GatewayServer, python: Embedder
) -> None:
    """The reason why docs/gateway.md recommends another of its clients."""
    client = installed("llama_index.embeddings.openai_like").OpenAILikeEmbedding(
        model_name="e5-mini", api_base=f"{gateway.url}/v1", api_key=KEY
    )
    truth = python.encode_document(["two lines", "two\nlines"], normalize=True)
    found = client.get_text_embedding("two\nlines")
    assert np.allclose(found, truth[0], atol=1e-6)
    assert not np.allclose(found, truth[1], atol=1e-3)


def test_cohere_counts_tokens_and_lists_models(cohere: Any, python: Embedder) -> None:
    expected = python.tokenize(documents=[QUERY])[0].token_ids
    counted = cohere.tokenize(text=QUERY, model="e5-mini", offline=False)
    assert tuple(counted.tokens) == expected
    assert len(counted.token_strings) == len(expected)
    assert cohere.detokenize(tokens=counted.tokens, model="e5-mini", offline=False).text == QUERY
    names = [model.name for model in cohere.models.list().models]
    assert names[:3] == ["e5-mini", "e5-mini-query", "e5-mini-passage"]
    assert cohere.models.get("e5-mini").name == "e5-mini"


def test_ollama_asks_about_models_and_reads_errors(gateway: GatewayServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    client = installed("ollama").Client(host=gateway.url, headers=headers)
    names = [model.model for model in client.list().models]
    assert "e5-mini-query:latest" in names
    assert "embedding" in client.show("e5-mini:latest").capabilities
    assert client.embed(model="e5-mini", input="").embeddings == []

    def ask(**more: Any) -> None:
        client.embed(**{"model": "e5-mini", "input": "a", **more})

    said = one_request(gateway, "404", lambda: ask(model="llama3"))
    assert said.startswith('model: received "llama3"')
    said = one_request(gateway, "400", lambda: ask(dimensions=193))
    assert said.startswith("dimensions: received 193; use 1 to 192.")


@pytest.mark.long
def test_nvidia_ranks(gateway: GatewayServer, cosines: NDArray[np.float64]) -> None:
    ranker = installed("langchain_nvidia_ai_endpoints").NVIDIARerank(
        model="e5-mini", base_url=f"{gateway.url}/v1", api_key=KEY
    )
    from langchain_core.documents import Document

    found = ranker.compress_documents([Document(text) for text in DOCUMENTS], QUERY)
    assert [each.page_content for each in found] == [DOCUMENTS[i] for i in np.argsort(-cosines)]
    scores = [each.metadata["relevance_score"] for each in found]
    assert np.allclose(scores, np.sort(cosines)[::-1], atol=1e-5)
