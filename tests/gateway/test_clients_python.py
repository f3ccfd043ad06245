"""Real clients at the real gateway: the right vectors, in their order, and nothing asked twice.

The truth is the Python API on the same checkpoint in the same dtype. A client that is not installed
is skipped; docs/gateway.md tells how each was tried. Those marked `long` belong to the extra
`clients-long`: they send what another client of their family sends.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gateway_server import GatewayServer, hang_up, serve_gateway

from e5.embedder import Embedder
from e5.prompts import DEFAULT_TASK
from e5.vectors import Vectors

pytestmark = [
    pytest.mark.slow,  # starts a server
    # Most clients keep their connections until they are collected, and some cannot be closed.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

QUERY = "how much protein should a female eat"
DOCUMENTS = ["Women aged 19 to 70 need 46 grams of protein a day.", "Éclair 😀 مرحبا", "a\nlist"]
MANY = [f"note {i} of day {i * 7919 % 2048}" for i in range(2048)]
COHERE_NAME = "embed-english-v3.0"  # LlamaIndex refuses any but Cohere's own
ALIASES = ("--alias", f"{COHERE_NAME}=e5-mini")
KEY = "any"  # the gateway here asks for none; most clients insist on one


@dataclass(frozen=True)
class TriedClient:
    """A client, as its users have it.

    Attributes:
        query: the vector of a query.
        documents: the vectors of documents, in one call.
        keeps_lines: False for a client that writes a line break as a space.
    """

    query: Callable[[str], Sequence[float]]
    documents: Callable[[list[str]], Sequence[Sequence[float]]]
    keeps_lines: bool = True


def installed(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)


def openai_by_model_name(url: str) -> TriedClient:
    client = installed("openai").OpenAI(base_url=f"{url}/v1", api_key=KEY)

    def embed(model: str, texts: list[str]) -> list[Any]:
        answer = client.embeddings.create(model=model, input=texts)  # asks for base64
        return [row.embedding for row in answer.data]

    return TriedClient(
        lambda text: embed("e5-mini-query", [text])[0], lambda texts: embed("e5-mini", texts)
    )


def openai_by_input_type(url: str) -> TriedClient:
    client = installed("openai").OpenAI(base_url=f"{url}/v1", api_key=KEY)

    def embed(role: str, texts: list[str]) -> list[Any]:
        answer = client.embeddings.create(
            model="e5-mini", input=texts, encoding_format="float", extra_body={"input_type": role}
        )
        return [row.embedding for row in answer.data]

    return TriedClient(
        lambda text: embed("query", [text])[0], lambda texts: embed("passage", texts)
    )


def langchain_openai(url: str) -> TriedClient:
    def side(model: str) -> Any:
        return installed("langchain_openai").OpenAIEmbeddings(
            model=model, base_url=f"{url}/v1", api_key=KEY, check_embedding_ctx_length=False
        )

    return TriedClient(side("e5-mini-query").embed_query, side("e5-mini-passage").embed_documents)


def azure_openai(url: str) -> TriedClient:
    client = installed("openai").AzureOpenAI(
        azure_endpoint=url, api_key=KEY, api_version="2024-10-21"
    )

    def embed(deployment: str, texts: list[str]) -> list[Any]:
        answer = client.embeddings.create(model=deployment, input=texts)
        return [row.embedding for row in answer.data]

    return TriedClient(
        lambda text: embed("e5-mini-query", [text])[0], lambda texts: embed("e5-mini", texts)
    )


def langchain_azure(url: str) -> TriedClient:
    def side(deployment: str) -> Any:
        return installed("langchain_openai").AzureOpenAIEmbeddings(
            azure_endpoint=url,
            azure_deployment=deployment,
            api_key=KEY,
            api_version="2024-10-21",
            check_embedding_ctx_length=False,
        )  # its body names text-embedding-ada-002

    return TriedClient(side("e5-mini-query").embed_query, side("e5-mini-passage").embed_documents)


def langchain_nvidia(url: str) -> TriedClient:
    client = installed("langchain_nvidia_ai_endpoints").NVIDIAEmbeddings(
        model="e5-mini", base_url=f"{url}/v1", api_key=KEY
    )
    return TriedClient(client.embed_query, client.embed_documents)


def langchain_cohere(url: str) -> TriedClient:
    client = installed("langchain_cohere").CohereEmbeddings(
        model="e5-mini",
        base_url=url,
        cohere_api_key=KEY,
        max_retries=1,  # by default it asks three times, also after a 400
    )
    return TriedClient(client.embed_query, client.embed_documents)


def cohere_v2(url: str) -> TriedClient:
    client = installed("cohere").ClientV2(api_key=KEY, base_url=url)

    def embed(role: str, texts: list[str]) -> Any:
        answer = client.embed(
            texts=texts, model="e5-mini", input_type=role, embedding_types=["float"]
        )
        return answer.embeddings.float_

    return TriedClient(
        lambda text: embed("search_query", [text])[0],
        lambda texts: embed("search_document", texts),
    )


def cohere_v1(url: str) -> TriedClient:
    client = installed("cohere").Client(api_key=KEY, base_url=url)

    def embed(role: str, texts: list[str]) -> Any:
        return client.embed(texts=texts, model="e5-mini", input_type=role).embeddings

    return TriedClient(
        lambda text: embed("search_query", [text])[0],
        lambda texts: embed("search_document", texts),
    )


def voyageai(url: str) -> TriedClient:
    client = installed("voyageai").Client(api_key=KEY, base_url=f"{url}/v1")

    def embed(role: str, texts: list[str]) -> Any:
        return client.embed(texts, model="e5-mini", input_type=role).embeddings

    return TriedClient(
        lambda text: embed("query", [text])[0], lambda texts: embed("document", texts)
    )


def hugging_face(url: str) -> TriedClient:
    client = installed("huggingface_hub").InferenceClient(model=url)
    return TriedClient(
        lambda text: client.feature_extraction(text, prompt_name="query")[0],
        client.feature_extraction,
    )


def ollama(url: str) -> TriedClient:
    client = installed("ollama").Client(host=url)
    return TriedClient(
        lambda text: client.embed(model="e5-mini-query", input=text).embeddings[0],
        lambda texts: client.embed(model="e5-mini:latest", input=texts).embeddings,
    )


def langchain_ollama(url: str) -> TriedClient:
    def side(model: str) -> Any:
        return installed("langchain_ollama").OllamaEmbeddings(
            model=model, base_url=url, validate_model_on_init=True
        )

    return TriedClient(side("e5-mini-query").embed_query, side("e5-mini").embed_documents)


def llamaindex_ollama(url: str) -> TriedClient:
    def side(model: str) -> Any:
        return installed("llama_index.embeddings.ollama").OllamaEmbedding(
            model_name=model, base_url=url, embed_batch_size=2048
        )

    query, document = side("e5-mini-query"), side("e5-mini")
    return TriedClient(query.get_query_embedding, document.get_text_embedding_batch)


def google(url: str, **more: Any) -> TriedClient:
    client = installed("google.genai").Client(api_key=KEY, http_options={"base_url": url}, **more)

    def embed(task: str, texts: list[str]) -> Any:
        answer = client.models.embed_content(
            model="e5-mini", contents=texts, config={"task_type": task}
        )
        return [each.values for each in answer.embeddings]

    return TriedClient(
        lambda text: embed("RETRIEVAL_QUERY", [text])[0],
        lambda texts: embed("RETRIEVAL_DOCUMENT", texts),
    )


def vertex_ai(url: str) -> TriedClient:
    return google(url, vertexai=True)


def langchain_google(url: str) -> TriedClient:
    client = installed("langchain_google_genai").GoogleGenerativeAIEmbeddings(
        model="e5-mini", google_api_key=KEY, base_url=url
    )
    return TriedClient(client.embed_query, client.embed_documents)


def mistral(url: str) -> TriedClient:
    client = installed("mistralai.client").Mistral(api_key=KEY, server_url=url)

    def embed(model: str, texts: list[str]) -> Any:
        return [row.embedding for row in client.embeddings.create(model=model, inputs=texts).data]

    return TriedClient(
        lambda text: embed("e5-mini-query", [text])[0], lambda texts: embed("e5-mini", texts)
    )


def litellm(url: str) -> TriedClient:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices
    embedding = installed("litellm").embedding

    def embed(role: str, texts: list[str]) -> Any:
        answer = embedding(
            model="hosted_vllm/e5-mini",
            input=texts,
            input_type=role,
            api_base=f"{url}/v1",
            api_key=KEY,
        )
        return [row["embedding"] for row in answer.data]

    return TriedClient(
        lambda text: embed("query", [text])[0], lambda texts: embed("passage", texts)
    )


def llamaindex_openai(url: str) -> TriedClient:
    def side(model: str) -> Any:
        return installed("llama_index.embeddings.openai_like").OpenAILikeEmbedding(
            model_name=model, api_base=f"{url}/v1", api_key=KEY, embed_batch_size=2048
        )

    query, document = side("e5-mini-query"), side("e5-mini-passage")
    return TriedClient(
        query.get_query_embedding, document.get_text_embedding_batch, keeps_lines=False
    )


def llamaindex_cohere(url: str) -> TriedClient:
    client = installed("llama_index.embeddings.cohere").CohereEmbedding(
        model_name=COHERE_NAME, api_key=KEY, base_url=url, embed_batch_size=96
    )
    return TriedClient(client.get_query_embedding, client.get_text_embedding_batch)


def llamaindex_tei(url: str) -> TriedClient:
    module = installed("llama_index.embeddings.text_embeddings_inference")
    client = module.TextEmbeddingsInference(
        model_name="e5-mini",
        base_url=url,
        query_instruction=f"Instruct: {DEFAULT_TASK}\nQuery:",  # it adds the space
        text_instruction="",
        embed_batch_size=2048,
    )
    return TriedClient(client.get_query_embedding, client.get_text_embedding_batch)


def haystack_door(query: Any, document: Any) -> TriedClient:
    from haystack import Document

    def documents(texts: list[str]) -> Any:
        found = document.run([Document(content=text) for text in texts])["documents"]
        return [one.embedding for one in found]

    return TriedClient(lambda text: query.run(text)["embedding"], documents)


def haystack_openai(url: str) -> TriedClient:
    embedders = installed("haystack.components.embedders")
    to = {"api_key": _secret(), "api_base_url": f"{url}/v1"}
    return haystack_door(
        embedders.OpenAITextEmbedder(model="e5-mini-query", **to),
        embedders.OpenAIDocumentEmbedder(
            model="e5-mini-passage",
            raise_on_failure=True,  # or documents come back without vectors
            progress_bar=False,
            **to,
        ),
    )


def haystack_cohere(url: str) -> TriedClient:
    embedders = installed("haystack_integrations.components.embedders.cohere")
    to = {"api_key": _secret(), "api_base_url": url, "model": "e5-mini"}
    return haystack_door(
        embedders.CohereTextEmbedder(**to),
        embedders.CohereDocumentEmbedder(progress_bar=False, **to),
    )


def haystack_nvidia(url: str) -> TriedClient:
    embedders = installed("haystack_integrations.components.embedders.nvidia")
    to = {"api_key": _secret(), "api_url": f"{url}/v1", "model": "e5-mini"}
    query = embedders.NvidiaTextEmbedder(**to)
    document = embedders.NvidiaDocumentEmbedder(progress_bar=False, **to)
    query.warm_up()
    document.warm_up()
    return haystack_door(query, document)


def haystack_hugging_face(url: str) -> TriedClient:
    embedders = installed("haystack_integrations.components.embedders.huggingface_api")
    to = {"api_type": "text_embeddings_inference", "api_params": {"url": url}, "token": _secret()}
    return haystack_door(
        embedders.HuggingFaceAPITextEmbedder(prefix=f"Instruct: {DEFAULT_TASK}\nQuery: ", **to),
        embedders.HuggingFaceAPIDocumentEmbedder(progress_bar=False, **to),
    )


def _secret() -> Any:
    os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
    return installed("haystack.utils").Secret.from_token(KEY)


# What cohere 5 is written for.
OLD_PYDANTIC = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")
LONG = pytest.mark.long
LITELLM = pytest.param(litellm, marks=pytest.mark.filterwarnings("ignore:Items? .* on TypedDict"))
LONG_DOORS = [
    pytest.param(langchain_nvidia, marks=LONG),
    pytest.param(langchain_cohere, marks=[OLD_PYDANTIC, LONG]),
    pytest.param(langchain_google, marks=LONG),
    pytest.param(langchain_ollama, marks=LONG),
    pytest.param(llamaindex_ollama, marks=LONG),
    pytest.param(mistral, marks=LONG),
    pytest.param(vertex_ai, marks=LONG),
    pytest.param(llamaindex_openai, marks=LONG),
    pytest.param(llamaindex_cohere, marks=[OLD_PYDANTIC, LONG]),
    pytest.param(haystack_cohere, marks=LONG),
    pytest.param(haystack_nvidia, marks=LONG),
    pytest.param(haystack_hugging_face, marks=LONG),
]
# Each puts many texts into requests in its own way.
SPLITTING_DOORS = [
    openai_by_model_name,
    cohere_v2,
    hugging_face,
    langchain_openai,
    llamaindex_tei,
    haystack_openai,
]
# These put them into requests as one above.
LIKE_ANOTHER = [
    *(openai_by_input_type, azure_openai, langchain_azure, cohere_v1, voyageai, ollama, google),
    LITELLM,
]
CLIENTS = [*SPLITTING_DOORS, *LIKE_ANOTHER, *LONG_DOORS]
MANY_TEXT_CLIENTS = [
    *SPLITTING_DOORS,
    *(pytest.param(client, marks=LONG) for client in LIKE_ANOTHER if callable(client)),
    pytest.param(litellm, marks=[*LITELLM.marks, LONG]),
    *LONG_DOORS,
]


def name_of(client: Any) -> str:
    name: str = client.__name__
    return name


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayServer]:
    with serve_gateway(*ALIASES) as running:
        yield running
        hang_up(running)


@pytest.fixture(scope="module", params=CLIENTS, ids=name_of)
def client(request: pytest.FixtureRequest, gateway: GatewayServer) -> TriedClient:
    made: TriedClient = request.param(gateway.url)
    return made


def cosines(found: Any, truth: Any) -> Any:
    """Row by row, in float64."""
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    assert found.shape == truth.shape
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(truth, axis=-1)
    return (found * truth).sum(axis=-1) / lengths


def test_a_query_is_embedded_as_a_query(client: TriedClient, python: Embedder) -> None:
    found = client.query(QUERY)
    assert cosines(found, python.encode_query(QUERY)) >= 0.999999
    assert cosines(found, python.encode_document(QUERY)) < 0.99


def test_documents_are_embedded_as_documents(client: TriedClient, python: Embedder) -> None:
    texts = DOCUMENTS if client.keeps_lines else [text.replace("\n", " ") for text in DOCUMENTS]
    found = client.documents(DOCUMENTS)
    assert cosines(found, python.encode_document(texts)).min() >= 0.999999


@pytest.fixture(scope="module")
def truth(python: Embedder) -> Vectors:
    """The vectors of the 2,048 texts."""
    return python.encode_document(MANY)


@pytest.mark.parametrize("client", MANY_TEXT_CLIENTS, indirect=True, ids=name_of, scope="module")
def test_2048_texts_keep_their_order(client: TriedClient, truth: Vectors) -> None:
    assert cosines(client.documents(MANY), truth).min() >= 0.999999
    assert cosines(truth[:-1], truth[1:]).max() < 0.9999  # a neighbour's vector would be seen


def test_a_bad_text_costs_one_request_and_is_named(
    client: TriedClient, gateway: GatewayServer
) -> None:
    before, bad_before = gateway.counted(), gateway.counted(status="400")
    with pytest.raises(Exception, match=r"received blank text|leave it out"):
        client.documents(["snow", " "])
    assert gateway.counted() - before == 1
    assert gateway.counted(status="400") - bad_before == 1
