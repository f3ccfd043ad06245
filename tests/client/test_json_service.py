"""Any service of JSON: what is sent, what comes back, and why nothing does."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fake_http import Asked, Reply, serve_http

from e5.client.json_service import JsonService
from e5.errors import InputError, ServiceError

KEY = "sk-secret"


def post(answer: Callable[[Asked], Reply], body: Any = None, path: str = "", **options: Any) -> Any:
    """The answer of a server to one body, or the error."""

    async def story(url: str) -> Any:
        service = JsonService(url + path, {"Authorization": f"Bearer {KEY}"}, **options)
        try:
            return await service.post({"texts": ["secret text"]} if body is None else body)
        finally:
            await service.aclose()

    with serve_http(answer) as url:
        return asyncio.run(story(url))


def test_a_body_goes_to_the_url_and_the_answer_is_parsed() -> None:
    asked = list[Asked]()

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return 200, [1, {"a": None}]

    assert post(answer, {"é": "\ud83d"}, "/v1/x?version=2") == [1, {"a": None}]
    (request,) = asked
    assert (request.method, request.path) == ("POST", "/v1/x?version=2")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == {"é": "\ud83d"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"error": {"message": "too long", "type": "x"}}, "too long"),
        ({"error": "too long."}, "too long"),
        ({"message": "too\nlong", "error": {}}, "too long"),
        ({"detail": "too long"}, "too long"),
        (b"<html>no</html>", '"<html>no</html>"'),
        (b"", "an empty body"),
        ({"detail": [{"loc": ["body"]}]}, '"{\\"detail\\": [{\\"loc\\": [\\"body\\"]}]}"'),
    ],
)
def test_a_refusal_has_the_services_sentence(body: Any, sentence: str) -> None:
    for status in (400, 413, 422, 500, 502):
        with pytest.raises(ServiceError) as raised:
            post(lambda _, status=status: (status, body))  # type: ignore[misc]
        assert f"HTTP {status}: {sentence}; send what it takes." in str(raised.value)
        assert raised.value.cause == "other"


@pytest.mark.parametrize(
    ("status", "headers", "field", "words"),
    [
        (401, {}, "api_key", "HTTP 401: no"),
        (403, {}, "api_key", "HTTP 403: no"),
        (404, {}, "url", "which answers HTTP 404: no"),
        (405, {}, "url", "which answers HTTP 405: no"),
        (307, {"Location": "http://127.0.0.2/"}, "url", "which redirects (HTTP 307)"),
    ],
)
def test_a_wrong_key_or_url_is_the_callers(
    status: int, headers: dict[str, str], field: str, words: str
) -> None:
    asked = list[Asked]()

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return status, {"message": "no"}, headers

    with pytest.raises(InputError) as raised:
        post(answer)
    assert raised.value.field == field
    assert words in raised.value.received
    assert len(asked) == 1


def test_a_busy_service_is_asked_again() -> None:
    asked = list[Asked]()

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return (200, 7) if len(asked) == 3 else (429, {"message": "slow down"})

    assert post(answer) == 7


def test_a_service_that_stays_busy_says_so() -> None:
    with pytest.raises(ServiceError, match="HTTP 503: wait; try again") as raised:
        post(lambda _: (503, {"error": "wait"}, {"Retry-After": "100"}))
    assert raised.value.cause == "busy"


def test_an_answer_that_is_not_json_is_named() -> None:
    with pytest.raises(ServiceError, match=r"that is not JSON: .*html.*; check the URL") as raised:
        post(lambda _: (200, b"<html>"))
    assert raised.value.cause == "other"


def test_nobody_at_the_address_is_named() -> None:
    with serve_http(lambda _: (200, {})) as url:
        pass
    with pytest.raises(ServiceError, match="no connection") as raised:
        asyncio.run(JsonService(url, {}).post({}))
    assert raised.value.cause == "unreachable"


def test_a_connection_that_is_lost_is_not_made_again() -> None:
    asked = list[Asked]()

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return b""

    with pytest.raises(ServiceError, match="no connection") as raised:
        post(answer)
    assert raised.value.cause == "unreachable"
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("url", "received"),
    [
        ("http://a/v1?key=sk-secret", "a URL with a key"),
        ("http://a/v1?api_Key=sk-secret", "a URL with a key"),
        ("http://user:sk-secret@a/v1", "a URL with a user name"),
        ("ftp://a", '"ftp://a"'),
        ("a", '"a"'),
        ("", '""'),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, received: str) -> None:
    with pytest.raises(InputError) as raised:
        JsonService(url, {})
    assert (raised.value.field, raised.value.received) == ("url", received)


def test_neither_key_nor_text_nor_query_is_logged_or_in_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="e5"), pytest.raises(ServiceError) as raised:
        post(lambda _: (400, {"error": "no"}), path="/v1?token=hidden")
    for shown in (caplog.text, str(raised.value), repr(raised.value)):
        assert not [word for word in ("secret", "hidden") if word in shown]
