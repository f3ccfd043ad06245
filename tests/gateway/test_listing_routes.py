"""Clients of Ollama, Google and Cohere get the model's names, and learn whether a key is right."""

import pytest
from gateway_tools import FakeBackend, LocalGateway, sentence_of


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
def test_ollama_s_clients_get_each_name_with_its_tag(path: str, fake: FakeBackend) -> None:
    local = LocalGateway(fake, aliases={"nomic-embed-text": "small-query"})
    listed = local.get(path).json()["models"]
    names = ["small:latest", "small-query:latest", "small-passage:latest"]
    assert [model["name"] for model in listed] == [*names, "nomic-embed-text:latest"]
    for model in listed:
        assert model["model"] == model["name"]
        assert model["digest"] == "0123456789ab"
        assert model["details"]["family"]
        response = local.post("/api/embed", {"model": model["name"], "input": "a"})
        assert response.json()["model"] == model["name"]


def test_the_version_is_one_that_has_these_answers(fake: FakeBackend) -> None:
    version = LocalGateway(fake).get("/api/version").json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 11, 0]  # `dimensions` came then


def test_google_s_clients_get_each_name(fake: FakeBackend) -> None:
    local = LocalGateway(fake)
    listed = local.get("/v1beta/models").json()["models"]
    names = ["models/small", "models/small-query", "models/small-passage"]
    assert [model["name"] for model in listed] == names
    for model in listed:
        assert model["inputTokenLimit"] == 4096
        assert "embedContent" in model["supportedGenerationMethods"]
        assert local.get(f"/v1beta/{model['name']}").json() == model


@pytest.mark.parametrize("path", ["/check-api-key", "/v1/check-api-key"])
def test_a_key_can_be_checked(path: str, fake: FakeBackend) -> None:
    local = LocalGateway(fake, keys=["k"])
    response = local.send("POST", path, headers={"authorization": "Bearer k"})
    assert response.json() == {"valid": True}
    assert sentence_of(local.send("POST", path), 401)
    assert LocalGateway(fake).send("POST", path).json() == {"valid": True}
