"""Every error has the status of its cause, and one body that each kind of client can read."""

import doctest
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from e5 import errors
from e5.errors import E5Error, InputError, OutOfMemoryError, QueueFullError, ServiceError
from e5.gateway import refusals
from e5.gateway.refusals import ErrorStyle, RefusalError, body_of, busy, refusal_of

# The status of every error of ours, by what the caller can do about it: 400s are not sent again.
CASES: list[tuple[E5Error, int]] = [
    (errors.FieldError("input", "null", "send a string"), 502),
    (errors.InputError("input[2]", "null", "send a string"), 400),
    (errors.TextError("input[2]", "no text", "send one", position=0), 400),
    (errors.NonFiniteError(0, "input[2]"), 400),
    (errors.OutOfMemoryError(4096, 0, "input[2]"), 400),
    (errors.RequestTooLargeError(9, 5), 413),
    (errors.QueueFullError(10, 5, 12), 429),
    (errors.EngineError("the engine failed; the service's log has the reason."), 502),
    (errors.FileError("weights", "gone", "restore them"), 502),
    (errors.WeightsError("weights", "gone", "restore them"), 502),
    (errors.TokenizerError("tokenizer", "gone", "restore it"), 502),
    (errors.SettingsError("E5_DEVICE", "'x'", "use cpu"), 502),
    (errors.ServiceError("busy.", cause="busy"), 429),
    (errors.ServiceError("gone.", cause="unreachable"), 503),
    (errors.ServiceError("dead.", cause="died"), 503),
    (errors.ServiceError("late.", cause="deadline"), 504),
    (errors.ServiceError("strange.", cause="other"), 502),
    (errors.E5Error("anything."), 502),
]


def subclasses(cls: type[E5Error]) -> Iterator[type[E5Error]]:
    yield cls
    for below in cls.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from subclasses(below)


def test_no_error_of_ours_is_forgotten() -> None:
    assert {type(error) for error, _ in CASES} == set(subclasses(E5Error))


@pytest.mark.parametrize(("error", "status"), CASES)
def test_the_status_is_that_of_the_cause(error: E5Error, status: int) -> None:
    refusal = refusal_of(error)
    assert refusal.status == status
    if isinstance(error, ServiceError):  # its sentence names the operator's address
        assert str(error) not in str(refusal)
        assert str(refusal).startswith("the service behind this gateway ")
    else:
        assert str(refusal) == str(error)
    assert ("Retry-After" in refusal.headers) == (status in (429, 503))


def test_the_field_is_the_callers() -> None:
    def field(error: E5Error) -> Any:
        return body_of(refusal_of(error), "openai")["error"]["param"]

    assert field(InputError("input[2]", "null", "send a string")) == "input[2]"
    assert field(OutOfMemoryError(9, 0, "texts[1]")) == "texts[1]"
    assert field(QueueFullError(10, 5, 12)) is None


@pytest.mark.parametrize(("seconds", "said"), [(None, "1"), (0.0, "1"), (0.2, "1"), (29.1, "30")])
def test_a_busy_service_says_in_whole_seconds_when_to_come_again(
    seconds: float | None, said: str
) -> None:
    error = ServiceError("busy.", cause="busy", retry_after=seconds)
    assert refusal_of(error).headers == {"Retry-After": said}
    assert busy("busy.", seconds or 0).headers == {"Retry-After": said}


@pytest.mark.parametrize(
    "error", [ValueError("secret text"), RuntimeError("secret"), KeyError("secret"), OSError()]
)
def test_what_is_not_ours_says_nothing_of_itself(error: Exception) -> None:
    refusal = refusal_of(error)
    assert refusal.status == 502
    assert "secret" not in str(refusal)


@pytest.mark.parametrize("style", ["openai", "tei", "cog", "google", "replicate"])
@pytest.mark.parametrize("status", [400, 401, 404, 405, 413, 415, 429, 502, 503, 504])
def test_every_client_finds_the_sentence_where_it_looks(status: int, style: ErrorStyle) -> None:
    body = body_of(RefusalError(status, E5Error("one sentence.")), style)
    assert body["detail"] == "one sentence."  # Voyage
    assert body["message"] == "one sentence."  # Cohere
    if style == "replicate" or (style, status) == ("cog", 401):
        assert body["error"] == "one sentence."
        assert body["status"] == status  # its client for Go takes a number alone
        assert body["title"] == HTTPStatus(status).phrase
    elif style == "google":
        assert body["error"]["message"] == "one sentence."
        assert body["error"]["code"] == status  # a number: Go's clients drop all else
        assert body["error"]["status"] == body["error"]["status"].upper()
    elif style == "tei":
        assert body["error"] == "one sentence."  # text-embeddings-inference, Ollama
    elif style == "cog":
        assert body["status"] == "failed"
        assert body["error"] == "E5Error: one sentence."
        assert body["metrics"]["error"] == {"type": "E5Error", "message": "one sentence."}  # Client
    else:
        assert body["error"]["message"] == "one sentence."  # OpenAI
        assert body["error"]["code"] == str(status)
        assert body["object"] == "error"  # Mistral's AI SDK needs it and the next
        assert {name: body[name] for name in ("type", "param", "code")}.items() <= (
            body["error"].items()
        )
    # The words of text-embeddings-inference 1.9.3's description.
    known = {"Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"}
    assert body["error_type"] in known


def test_the_names_of_a_status_are_openais() -> None:
    def kind(status: int) -> str:
        word: str = body_of(RefusalError(status, "x."), "openai")["error"]["type"]
        return word

    assert kind(400) == kind(413) == kind(415) == "invalid_request_error"
    assert kind(401) == "authentication_error"
    assert kind(404) == "not_found_error"
    assert kind(429) == "rate_limit_error"
    assert kind(502) == kind(503) == kind(504) == "server_error"


def test_googles_names_of_a_status() -> None:
    def word(status: int) -> str:
        told: str = body_of(RefusalError(status, "x."), "google")["error"]["status"]
        return told

    assert word(400) == word(405) == word(413) == word(415) == "INVALID_ARGUMENT"
    assert word(401) == "UNAUTHENTICATED"
    assert word(404) == "NOT_FOUND"
    assert word(429) == "RESOURCE_EXHAUSTED"
    assert word(502) == "INTERNAL"
    assert (word(503), word(504)) == ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(refusals, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
