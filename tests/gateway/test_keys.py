"""A key is found wherever a client puts it, and is never seen in a log."""

import base64
import logging

import pytest
from gateway_tools import FakeBackend, LocalGateway, sentence_of

KEY = "first"
PATH = "/v1/embeddings"
TEXTS = {"input": "snow"}


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


@pytest.fixture(scope="module")
def local() -> LocalGateway:
    return LocalGateway(FakeBackend(), keys=["other", KEY])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer first"),
        ("Authorization", "bearer  first "),
        ("Authorization", "Token first"),
        ("Authorization", "TOKEN first"),
        ("Authorization", "Api-Key first"),
        ("Authorization", "first"),
        ("Authorization", basic("anyone:first")),
        ("Authorization", basic("first:")),
        ("Authorization", basic(":first")),
        ("Authorization", basic("first")),
        ("x-api-key", "first"),
        ("api-key", "first"),
        ("x-goog-api-key", " first"),
    ],
)
def test_a_header_may_hold_it(local: LocalGateway, name: str, value: str) -> None:
    assert local.post(PATH, TEXTS, {name: value}).status_code == 200


@pytest.mark.parametrize("query", ["key=first", "alt=json&key=first", "api-version=1&key=%66irst"])
def test_the_url_may_hold_it(local: LocalGateway, query: str) -> None:
    assert local.post(f"{PATH}?{query}", TEXTS).status_code == 200
    assert local.get(f"/metrics?{query}").status_code == 200


def test_one_right_key_among_several_is_enough(local: LocalGateway) -> None:
    sent = {"Authorization": "Bearer unused", "api-key": "first", "x-api-key": "unused"}
    assert local.post(f"{PATH}?key=unused", TEXTS, sent).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer firs"},
        {"Authorization": "Bearer first second"},
        {"Authorization": "Basic first"},
        {"Authorization": "Basic ////"},
        {"Authorization": basic("first:wrong")},
        {"Authorization": basic("wrong:")},
        {"Authorization": basic(":")},
        {"x-api-key": "FIRST"},
        {"api-key": ""},
        {"x-goog-api-key": "first,other"},
        {"key": "first"},
    ],
)
def test_anything_else_is_401_with_the_headers_for_keys(
    local: LocalGateway, headers: dict[str, str]
) -> None:
    response = local.post(f"{PATH}?key=&keys=first&Key=first", TEXTS, headers)
    assert sentence_of(response, 401) == (
        "the key is missing or wrong; send Authorization: Bearer KEY (or Token, or Basic with the "
        "key as the password), x-api-key, api-key, x-goog-api-key, or ?key=KEY."
    )
    assert response.headers["www-authenticate"] == "Bearer"


def test_without_keys_nothing_is_asked_for(fake: FakeBackend) -> None:
    assert LocalGateway(fake).post(PATH, TEXTS, {"Authorization": "Bearer x"}).status_code == 200


@pytest.mark.parametrize("secret", ["first", "very-wrong"])
@pytest.mark.parametrize("path", [PATH, "/nothing", "/metrics"])
def test_no_key_reaches_the_log_or_a_counter(
    local: LocalGateway, caplog: pytest.LogCaptureFixture, secret: str, path: str
) -> None:
    with caplog.at_level(logging.DEBUG, "e5"):
        for headers in ({"api-key": secret}, {"Authorization": basic(f"a:{secret}")}, {}):
            response = local.post(f"{path}?key={secret}", TEXTS, headers)
            assert secret not in response.text.replace("first:", "")
    assert secret not in caplog.text
    assert basic(f"a:{secret}")[6:] not in caplog.text
    assert secret not in local.gateway.metrics.text(waiting_tokens=0, cache_bytes=0).decode()
