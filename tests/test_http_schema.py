"""The server with the schema file in its folder, as in an image: Cog checks inputs first."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from asking import DOCUMENT, QUERY, SETTINGS, WEIGHTS, output_of, refused, vectors_of
from checkpoints import load
from reference import assert_same
from server import ROOT, SCHEMA, Server, serve

pytestmark = pytest.mark.slow  # starts a server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(WEIGHTS, env=SETTINGS, with_schema=True) as running:
        yield running


def test_answers_are_the_same_as_without_a_schema(server: Server) -> None:
    documents, python = [DOCUMENT, "short"], load(ROOT / WEIGHTS)
    output = output_of(server, query=QUERY, documents=documents, task="NQ", dimensions=64)
    query_vectors = python.encode_query([QUERY], task="NQ", dimensions=64)
    document_vectors = python.encode_document(documents, dimensions=64)
    assert_same(vectors_of(output), np.concatenate([query_vectors, document_vectors]))
    assert output["model"] == python.name


def test_every_input_may_be_left_out(server: Server) -> None:
    assert len(output_of(server, document=DOCUMENT)["embeddings"]) == 1
    assert len(output_of(server, queries=[QUERY, "q"])["embeddings"]) == 2


def test_the_schema_is_published(server: Server) -> None:
    published = server.client.get("/openapi.json").json()
    assert published == json.loads(SCHEMA.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"query": 5}, "query"),
        ({"query": None}, "query"),  # Cog refuses null even where leaving the input out is fine
        ({"queries": "abc"}, "queries"),
        ({"queries": ["a", 5]}, "queries/1"),
        ({"query": "q", "task": ["a"]}, "task"),
        ({"query": "q", "symmetric": "yes"}, "symmetric"),
        ({"query": "q", "normalize": 1}, "normalize"),
        ({"query": "q", "truncate": "no"}, "truncate"),
        ({"query": "q", "dimensions": 0}, "dimensions"),
        ({"query": "q", "dimensions": 1.5}, "dimensions"),
        ({"query": "q", "dimensions": True}, "dimensions"),
        ({"query": "q", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_cog_refuses_wrong_types_and_says_where(
    server: Server, inputs: dict[str, Any], field: str
) -> None:
    response = server.post(json={"input": inputs})
    assert response.status_code == 422
    assert [detail["loc"][:3] for detail in response.json()["detail"]] == [["body", "input", field]]
    assert output_of(server, document="still here", dimensions=1)["embeddings"]


@pytest.mark.parametrize(
    ("inputs", "field", "remedy"),
    [
        ({}, "query, document", "send at least one query or document"),
        ({"documents": ["a", " "]}, "documents[1]", "send text, or leave it out"),
        ({"query": "q", "dimensions": 193}, "dimensions", "use 1 to 192"),
        ({"documents": ["x"] * 2049}, "queries, documents", "send at most 2048"),
    ],
)
def test_what_the_schema_cannot_say_is_still_refused_by_us(
    server: Server, inputs: dict[str, Any], field: str, remedy: str
) -> None:
    sentence, error = refused(server, inputs)
    assert f"InputError: {field}: received " in sentence
    assert remedy in sentence
    assert sentence.endswith(str(error))


def test_cog_drops_unknown_inputs_before_we_can_name_them(server: Server) -> None:
    assert len(output_of(server, document=DOCUMENT, passage="p")["embeddings"]) == 1
