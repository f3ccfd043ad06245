"""Models, versions and deployments are described as Replicate's clients read them."""

from datetime import datetime
from typing import Any

import pytest
from gateway_tools import MODEL, FakeBackend, LocalGateway, sentence_of

FINGERPRINT = MODEL.partition("@")[2]
CARD = {"object": "model", "created": 0, "owned_by": "e5"}


@pytest.fixture(scope="module")
def quick() -> LocalGateway:
    return LocalGateway(FakeBackend(), aliases={"you/mine": "small"}, keys=["k"])


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize("name", ["you/small", "anyone/small", "you/mine"])
def test_a_model_with_its_owner_has_a_latest_version(
    quick: LocalGateway, name: str, prefix: str
) -> None:
    model = quick.get(f"{prefix}/models/{name}").json()
    owner, _, short_name = name.partition("/")
    expected = CARD | {"id": name, "owner": owner, "name": short_name}
    assert expected.items() <= model.items()
    version = model["latest_version"]
    assert version["id"] == FINGERPRINT
    assert quick.get(f"{prefix}/models/{name}/versions/{FINGERPRINT}").json() == version
    listed = quick.get(f"{prefix}/models/{name}/versions").json()
    assert listed == {"results": [version], "next": None, "previous": None}


def test_a_model_without_an_owner_has_no_fields_of_replicate_s(quick: LocalGateway) -> None:
    told = quick.get("/v1/models/small").json()
    assert (CARD | {"id": "small"}).items() <= told.items()
    assert not {"owner", "url", "latest_version"} & told.keys()


def test_a_version_has_what_replicate_s_clients_read(quick: LocalGateway) -> None:
    version: dict[str, Any] = quick.get("/v1/models/you/small/versions/any-of-replicate-s").json()
    assert version["id"] == "any-of-replicate-s"
    assert datetime.fromisoformat(version["created_at"])
    assert tuple(map(int, version["cog_version"].split("."))) >= (0, 3, 9)
    assert {"Input", "Output"} <= version["openapi_schema"]["components"]["schemas"].keys()


def test_a_deployment_has_a_name(quick: LocalGateway) -> None:
    for prefix in ("/v1", ""):
        deployment = quick.get(f"{prefix}/deployments/you/small").json()
        assert deployment == {"owner": "you", "name": "small", "current_release": None}


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/models/you/large", 'model: received "you/large"; send one of small, '),
        ("/v1/models/you/large/versions", 'model: received "you/large"; send one of small, '),
        ("/models/you/large/versions/1", 'model: received "you/large"; send one of small, '),
        ("/deployments/you/large", 'model: received "you/large"; send one of small, '),
        (
            "/v1/models/you/small/versions/ba9876543210",
            f'version: received "ba9876543210"; send {FINGERPRINT}, or leave it out.',
        ),
    ],
)
def test_what_is_not_served_is_404(quick: LocalGateway, path: str, sentence: str) -> None:
    assert sentence_of(quick.get(path), 404).startswith(sentence)
