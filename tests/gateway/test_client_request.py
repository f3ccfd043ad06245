"""Texts get the prompt they need; vectors and errors return in the caller's order and names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.errors import InputError, OutOfMemoryError, QueueFullError, RequestTooLargeError
from e5.gateway.client_request import ClientRequest, ServiceCall
from e5.gateway.roles import PromptChoice
from e5.gateway.wire import MAX_TEXTS
from e5.prompts import DEFAULT_TASK, TASKS
from e5.serving import Answer, EmbedRequest

DOCUMENT = PromptChoice("", "document")
QUERY = PromptChoice(DEFAULT_TASK, "query")
TWINS = PromptChoice("sts_query", "symmetric")
OWN = "Instruct: Find twins\nQuery: snow"


def call_for(texts: Sequence[Any], prompt: PromptChoice, **more: Any) -> ServiceCall:
    names = [f"input[{i}]" for i in range(len(texts))]
    request = ClientRequest(texts, names, "input", prompt, lambda answer: answer, **more)
    return request.service_call()


def answer_to(request: EmbedRequest) -> Answer:
    """Each text's vector and tokens tell which text it was."""
    numbers = [int(text.rpartition(" ")[2]) for text in [*request.queries, *request.documents]]
    return Answer(
        np.array(numbers, np.float32)[:, None],
        np.empty((0, 0), np.float32),
        tokens=numbers,
        truncated=[number % 2 == 1 for number in numbers],
        model="small@0",
        metrics={},
    )


def test_documents_are_bare() -> None:
    request = call_for(["a", "b"], DOCUMENT)
    assert request.request.queries == []
    assert request.request.documents == ["a", "b"]
    assert request.prompt == "document"


@pytest.mark.parametrize("prompt", [QUERY, TWINS])
def test_a_prompt_goes_before_every_text(prompt: PromptChoice) -> None:
    request = call_for(["a", "b"], prompt)
    assert request.request.queries == ["a", "b"]
    assert request.request.documents == []
    assert request.prompt == prompt.header


@pytest.mark.parametrize("prompt", [QUERY, TWINS, PromptChoice("SciFact", "query")])
def test_a_text_that_brings_its_prompt_gets_no_second_one(prompt: PromptChoice) -> None:
    call = call_for([OWN, "a", OWN], prompt)
    assert call.request.queries == ["a"]
    assert call.request.documents == [OWN, OWN]
    assert not call.request.symmetric
    # The service would put the task of a symmetric name before documents too.
    assert call.request.task not in TASKS
    assert call.prompt == f"{prompt.header}, own 2/3"
    assert call_for([OWN], prompt).prompt == "own"


def test_some_texts_may_be_documents() -> None:
    call = call_for(["a", "q", OWN], QUERY, document_positions={0, 2})
    assert call.request.queries == ["q"]
    assert call.request.documents == ["a", OWN]
    assert call.prompt == QUERY.header
    assert call_for([OWN, "a"], QUERY, document_positions=range(1, 2)).prompt == "own"


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.sampled_from([DOCUMENT, QUERY, TWINS]),
    st.data(),
)
def test_the_order_is_the_callers(
    owns: list[bool], prompt: PromptChoice, data: st.DataObject
) -> None:
    documents = data.draw(st.sets(st.integers(0, len(owns))))
    texts = [f"{OWN if own else 'a'} {i}" for i, own in enumerate(owns)]
    call = call_for(texts, prompt, document_positions=documents)
    result = call.in_callers_order(answer_to(call.request))
    numbers = list(range(len(texts)))
    assert result.vectors[:, 0].tolist() == numbers
    assert result.tokens == numbers
    assert result.truncated == [number % 2 == 1 for number in numbers]
    asked = [text for i, text in enumerate(texts) if i not in documents]
    prompted = asked if prompt.prompted else []
    assert call.request.queries == [text for text in prompted if not text.startswith(OWN)]


def test_options_reach_the_service() -> None:
    request = call_for(["a"], DOCUMENT, normalize=False, dimensions=3, truncate=False).request
    assert (request.normalize, request.dimensions, request.truncate) == (False, 3, False)
    usual = call_for(["a"], DOCUMENT).request
    assert (usual.normalize, usual.dimensions, usual.truncate) == (True, None, True)


@pytest.mark.parametrize("prompt", [DOCUMENT, QUERY])
@pytest.mark.parametrize("bad", [None, 5, "", " \n", "\ud800", ["a"], {"text": "a"}, True])
def test_a_bad_text_is_named_by_its_position_in_the_request(
    bad: object, prompt: PromptChoice
) -> None:
    with pytest.raises(InputError) as caught:
        call_for([OWN, "a", bad, "b"], prompt)
    assert caught.value.field == "input[2]"
    assert str(caught.value).startswith("input[2]: received ")


def test_other_fields_have_the_callers_names_too() -> None:
    with pytest.raises(InputError, match=r"^output_dimension: received 0; send 1 or more"):
        call_for(["a"], DOCUMENT, dimensions=0, renames={"dimensions": "output_dimension"})


def test_too_many_texts_and_too_many_characters_are_about_the_list() -> None:
    with pytest.raises(InputError, match=f"^input: received {MAX_TEXTS + 1} texts"):
        call_for(["a"] * (MAX_TEXTS + 1), DOCUMENT)
    with pytest.raises(InputError, match=r"^input: received 10800000 characters"):
        call_for(["a" * 900_000] * 12, DOCUMENT)


def test_errors_of_the_service_get_the_callers_names() -> None:
    renames = call_for([OWN, "a"], QUERY, renames={"dimensions": "n"}).renames
    for error, field in (
        (InputError("queries[0]", "null", "send a string"), "input[1]"),
        (OutOfMemoryError(5, 0, "documents[0]"), "input[0]"),
        (RequestTooLargeError(10, 5), "input"),
        (InputError("dimensions", "9", "use 1 to 8"), "n"),
        (InputError("task", "9", "use another"), "task"),
    ):
        renamed = error.renamed(renames)
        assert type(renamed) is type(error)
        assert renamed.field == field
        assert renamed.remedy == error.remedy
    full = QueueFullError(1, 2, 2)
    assert str(full.renamed(renames)) == str(full)
