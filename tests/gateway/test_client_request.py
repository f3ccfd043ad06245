"""Texts get the prompt that they need, and vectors and errors come back in the caller's words."""

import doctest
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.errors import E5Error, InputError, OutOfMemoryError, QueueFullError
from e5.gateway import client_request as ask
from e5.gateway.client_request import ClientRequest, in_words_of
from e5.gateway.roles import BARE, Prompt
from e5.prompts import DEFAULT_TASK, TASKS
from e5.serving.answer import Answer, Usage
from e5.serving.request import MAX_TEXTS

QUERY = Prompt(DEFAULT_TASK, "query")
TWINS = Prompt("sts_query", "symmetric")
OWN = "Instruct: Find twins\nQuery: snow"


def asked(texts: Sequence[Any], prompt: Prompt, **more: Any) -> ClientRequest:
    names = [f"input[{i}]" for i in range(len(texts))]
    return ClientRequest(texts, names, "input", prompt, shape=lambda result: result, **more)


def answer_to(request: Any) -> Answer:
    """Each text's vector and tokens tell which text it was."""
    numbers = [int(text.rpartition(" ")[2]) for text in [*request.queries, *request.documents]]
    return Answer(
        np.array(numbers, np.float32)[:, None],
        np.empty((0, 0), np.float32),
        Usage(tokens=numbers, truncated=[number % 2 == 1 for number in numbers]),
        "small@0",
        {},
    )


def test_documents_are_bare() -> None:
    request = asked(["a", "b"], BARE).request()
    assert request.request.queries == []
    assert request.request.documents == ["a", "b"]
    assert request.prompt == "document"


@pytest.mark.parametrize("prompt", [QUERY, TWINS])
def test_a_prompt_goes_before_every_text(prompt: Prompt) -> None:
    request = asked(["a", "b"], prompt).request()
    assert request.request.queries == ["a", "b"]
    assert request.request.documents == []
    assert request.prompt == prompt.header


@pytest.mark.parametrize("prompt", [QUERY, TWINS, Prompt("SciFact", "query")])
def test_a_text_that_brings_its_prompt_gets_no_second_one(prompt: Prompt) -> None:
    inner = asked([OWN, "a", OWN], prompt).request()
    assert inner.request.queries == ["a"]
    assert inner.request.documents == [OWN, OWN]
    assert not inner.request.symmetric
    # The service would put the task of a symmetric name before documents too.
    assert inner.request.task not in TASKS
    assert inner.prompt == f"{prompt.header}, own 2/3"
    assert asked([OWN], prompt).request().prompt == "own"


def test_texts_at_the_end_may_be_documents() -> None:
    inner = asked(["q", "a", OWN], QUERY, num_bare=2).request()
    assert inner.request.queries == ["q"]
    assert inner.request.documents == ["a", OWN]
    assert inner.prompt == QUERY.header
    assert asked([OWN, "a"], QUERY, num_bare=1).request().prompt == "own"


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.sampled_from([BARE, QUERY, TWINS]),
    st.data(),
)
def test_the_order_is_the_callers(owns: list[bool], prompt: Prompt, data: st.DataObject) -> None:
    num_bare = data.draw(st.integers(0, len(owns)))
    texts = [f"{OWN if own else 'a'} {i}" for i, own in enumerate(owns)]
    inner = asked(texts, prompt, num_bare=num_bare).request()
    result = inner.result(answer_to(inner.request))
    numbers = list(range(len(texts)))
    assert result.vectors[:, 0].tolist() == numbers
    assert result.tokens == numbers
    assert result.truncated == [number % 2 == 1 for number in numbers]
    prompted = [*texts[: len(texts) - num_bare]] if prompt.prompted else []
    assert inner.request.queries == [text for text in prompted if not text.startswith(OWN)]


def test_options_reach_the_service() -> None:
    request = asked(["a"], BARE, normalize=False, dimensions=3, truncate=False).request().request
    assert (request.normalize, request.dimensions, request.truncate) == (False, 3, False)
    usual = asked(["a"], BARE).request().request
    assert (usual.normalize, usual.dimensions, usual.truncate) == (True, None, True)


@pytest.mark.parametrize("prompt", [BARE, QUERY])
@pytest.mark.parametrize("bad", [None, 5, "", " \n", "\ud800", ["a"], {"text": "a"}, True])
def test_a_bad_text_is_named_by_its_place_among_the_callers(bad: object, prompt: Prompt) -> None:
    with pytest.raises(InputError) as caught:
        asked([OWN, "a", bad, "b"], prompt).request()
    assert caught.value.field == "input[2]"
    assert str(caught.value).startswith("input[2]: received ")


def test_other_fields_have_the_callers_names_too() -> None:
    with pytest.raises(InputError, match=r"^output_dimension: received 0; send 1 or more"):
        asked(["a"], BARE, dimensions=0, words={"dimensions": "output_dimension"}).request()


def test_too_many_texts_and_too_many_characters_are_about_the_list() -> None:
    with pytest.raises(InputError, match=f"^input: received {MAX_TEXTS + 1} texts"):
        asked(["a"] * (MAX_TEXTS + 1), BARE).request()
    with pytest.raises(InputError, match=r"^input: received 10800000 characters"):
        asked(["a" * 900_000] * 12, BARE).request()


def test_an_error_without_a_field_of_the_callers_stays_as_it_is() -> None:
    told = {"documents[0]": "input[2]"}
    errors: list[E5Error] = [
        QueueFullError(1, 2, 2),
        InputError("dimensions", "9", "use 1 to 8"),
        InputError("documents[1]", "9", "use 1 to 8"),
    ]
    for error in errors:
        assert in_words_of(error, told) is error


def test_an_error_about_a_text_keeps_its_class() -> None:
    error = in_words_of(OutOfMemoryError(5, 0, "documents[0]"), {"documents[0]": "input[2]"})
    assert type(error) is OutOfMemoryError
    assert str(error).startswith("input[2]: a text of 5 tokens does not fit")


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(ask, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
