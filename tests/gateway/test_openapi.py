"""The description of the API is that of the API: every route, and no reference to nothing."""

import doctest
from typing import Any
from urllib.parse import urljoin

import pytest
from gateway_tools import FakeBackend, LocalGateway

from e5.gateway import openapi
from e5.gateway.cog_route import PredictionInputs
from e5.serving import EmbedRequest


class NoIndex:
    """What adds `POST /search`; nothing is searched here."""

    task = ""
    dimensions = 8

    def check_model(self, model: str) -> None:
        """Any will do."""

    def search(self, query: Any, top: int) -> list[Any]:  # noqa: ARG002
        """Nothing."""
        return []


def described(index: NoIndex | None = None) -> dict[str, Any]:
    document: dict[str, Any] = LocalGateway(FakeBackend(), index=index).get("/openapi.json").json()
    return document


@pytest.mark.slow
def test_it_names_every_route_and_no_other() -> None:
    for index in (None, NoIndex()):
        local = LocalGateway(FakeBackend(), index=index)
        document = local.get("/openapi.json").json()
        in_document = {
            (path.replace("{name}", "{name:path}"), method.upper())
            for path, methods in document["paths"].items()
            for method in methods
        }
        served = {
            (r.path, method) for r in local.routes for method in set(r.methods or ()) - {"HEAD"}
        }
        assert in_document == served


def test_every_reference_has_its_end() -> None:
    document = described(NoIndex())
    ends: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(end := value.get("$ref"), str):
                ends.append(end)
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    assert len(ends) > 100
    for end in set(ends):
        found: Any = document
        for step in end.removeprefix("#/").split("/"):
            found = found[step]
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert schemas <= set(ends)


def test_every_refusal_is_described() -> None:
    for path, methods in described(NoIndex())["paths"].items():
        for method, operation in methods.items():
            assert "405" in operation["responses"], (path, method)
            if "requestBody" in operation:
                needed = {"400", "401", "413", "415", "429", "502", "503", "504"}
                assert needed <= operation["responses"].keys(), path


def test_the_server_is_where_the_document_is() -> None:
    document = described()
    (server,) = document["servers"]
    for base in ("http://gateway/", "https://proxy.example/e5/"):  # a proxy that strips /e5
        found = urljoin(base + "openapi.json", server["url"] + "/v1/embeddings")
        assert found == base + "v1/embeddings"


def test_every_header_and_parameter_of_a_key_is_described() -> None:
    document = described()
    schemes = document["components"]["securitySchemes"]
    assert document["security"] == [{}, *({name: []} for name in schemes)]
    places = {scheme.get("name", scheme.get("scheme")) for scheme in schemes.values()}
    headers = {"x-api-key", "api-key", "x-goog-api-key"}
    assert places == {"bearer", "token", "basic", "key", *headers}


def test_the_most_dimensions_are_the_model_s() -> None:
    schemas = described()["components"]["schemas"]
    reference = schemas["EmbeddingsRequest"]["properties"]["dimensions"]["$ref"]
    assert schemas[reference.rpartition("/")[2]]["maximum"] == 8


def test_a_prediction_has_the_inputs_of_the_service() -> None:
    assert list(PredictionInputs.model_fields) == list(EmbedRequest.model_fields)


def test_descriptions_are_sentences() -> None:
    document = described(NoIndex())
    operations = [op for methods in document["paths"].values() for op in methods.values()]
    texts = [operation["summary"] for operation in operations]
    for kind in ("headers", "responses", "schemas"):
        parts = document["components"][kind].values()
        texts += [part["description"] for part in parts if "description" in part]
    assert len(texts) > 50
    for text in texts:
        assert text[0].isupper() or text.startswith("`"), text
        assert text.endswith((".", "`.")), text


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(openapi, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
