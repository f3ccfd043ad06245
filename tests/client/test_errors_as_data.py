"""Every error of the service comes out of every client as the same error, whatever it says."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from fake_cog import Inputs, failed, fake_cog, succeeded
from fake_http import Reply
from fake_replicate import fake_replicate
from hypothesis import given, settings
from hypothesis import strategies as st

from e5.client import AsyncClient, Client, transport
from e5.errors import ERRORS_BY_NAME, E5Error, InputError, TextError

# The first text fills a request, so the second begins at the caller's text 1.
TEXTS = ["x" * 50_000, "7", "8", "9"]
FIELDS = [f"documents[{number}]" for number in range(5)]
AWKWARD = [
    "documents[1]: received 7; send a string.",
    'a; b: received "c" received d; e.',
    " received ",
    "; ",
    ": ",
    "Prediction failed: InputError: x",
    "\N{GRINNING FACE}\u05e9\u05dc\u05d5\u05dd\u202e \x1b[31m\nTraceback (most recent call last):",
    "",
]
TEXT = st.sampled_from([*FIELDS, *AWKWARD]) | st.text(max_size=30)


def of_class(kind: type[E5Error]) -> st.SearchStrategy[E5Error]:
    """Errors of a class, made from their data as it crosses processes."""
    values: dict[str, st.SearchStrategy[Any]] = {
        "message": TEXT,
        "field": st.sampled_from(FIELDS) | TEXT,
        "received": TEXT,
        "remedy": TEXT,
        "position": st.integers(0, 4000),
        "cause": st.sampled_from(["busy", "unreachable", "deadline", "other"]),
        "retry_after": st.none() | st.floats(0, 100),
    }

    def made(parts: Mapping[str, Any]) -> E5Error:
        error = E5Error.from_dict({"type": kind.__name__, **parts})
        assert error is not None
        return error

    return st.fixed_dictionaries({name: values[name] for name in kind.parts}).map(made)


# One of each class.
ERRORS = st.tuples(*(of_class(kind) for kind in ERRORS_BY_NAME.values()))


def in_the_caller_s_numbering(error: E5Error) -> E5Error:
    """The error of the second request as the caller should get it."""
    if isinstance(error, InputError | TextError) and error.field in FIELDS[:3]:
        position = FIELDS.index(error.field) + 1
        if isinstance(error, TextError):
            return error.at(position, FIELDS[position])
        return error.renamed({error.field: FIELDS[position]})
    return error


@contextmanager
def client(url: str) -> Iterator[Callable[[], object]]:
    with Client(url) as connected:
        yield lambda: connected.encode_document(TEXTS)


@contextmanager
def async_client(url: str) -> Iterator[Callable[[], object]]:
    with asyncio.Runner() as runner:
        connected = AsyncClient(url)
        yield lambda: runner.run(connected.encode_document(TEXTS))
        runner.run(connected.aclose())


class Failing:
    """A service that raises an error for the second request of a call."""

    error: E5Error

    def reply(self, inputs: Inputs) -> Reply:
        return failed(self.error) if TEXTS[1] in inputs["documents"] else succeeded(inputs)


@pytest.fixture(params=["cog", "replicate"])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[str, Failing]]:
    failing = Failing()
    if request.param == "cog":
        with fake_cog(lambda _, inputs: failing.reply(inputs)) as cog:
            yield cog.url, failing
    else:
        with fake_replicate(failing.reply):
            yield "replicate-deployment:you/e5", failing


@pytest.mark.slow
@pytest.mark.parametrize("kind", [client, async_client])
def test_every_error_comes_back_with_its_class_its_parts_and_its_sentence(
    service: tuple[str, Failing],
    kind: Callable[[str], AbstractContextManager[Callable[[], object]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, failing = service
    monkeypatch.setattr(transport, "FIRST_PAUSE", 1e9)  # a full queue is asked once

    @settings(max_examples=10)
    @given(ERRORS)
    def come_back(errors: tuple[E5Error, ...]) -> None:
        for error in errors:
            failing.error = error
            expected = in_the_caller_s_numbering(error)
            with pytest.raises(E5Error) as caught:
                encode()
            assert type(caught.value) is type(expected)
            assert caught.value.to_dict() == expected.to_dict()
            assert str(caught.value) == str(expected)

    with kind(url) as encode:
        come_back()
