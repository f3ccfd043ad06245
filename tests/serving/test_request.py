"""What a request may be, how it is refused otherwise, and how large an answer is."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from e5.errors import InputError
from e5.prompts import TASKS
from e5.serving.request import Answer, EmbedRequest, RequestLimits
from e5.texts import MAX_CHARACTERS, MAX_TASK

INPUTS = (
    "the inputs are task, query, document, queries, documents, symmetric, normalize, dimensions, "
    "truncate, encoding_format"
)
FEW = RequestLimits(texts=4, characters=100, numbers=1000)


def test_queries_come_first_then_documents_each_in_the_order_given() -> None:
    request = EmbedRequest.parse(
        documents=["d1", "d2"], queries=["q1", "q2"], document="d0", query="q0", task=""
    )
    assert request.fields == [
        *("query", "queries[0]", "queries[1]"),
        *("document", "documents[0]", "documents[1]"),
    ]
    assert request.all_queries == ["q0", "q1", "q2"]
    assert request.all_documents == ["d0", "d1", "d2"]


def test_none_means_not_given() -> None:
    nothing_else = dict.fromkeys(EmbedRequest.model_fields)
    assert EmbedRequest.parse(**{**nothing_else, "query": "q"}) == EmbedRequest.parse(query="q")


def test_an_empty_list_means_not_given() -> None:
    assert EmbedRequest.parse(query="q", documents=[], queries=[]).fields == ["query"]


def test_text_is_kept_as_it_is() -> None:
    text = "  a\x00\x07\t\N{GRINNING FACE} \n"
    assert EmbedRequest.parse(document=text).all_documents == [text]


def test_the_limits_of_a_request() -> None:
    assert RequestLimits() == RequestLimits(texts=2048, characters=10_000_000, numbers=2_097_152)


@pytest.mark.parametrize("limits", [RequestLimits(texts=1), FEW, RequestLimits()])
def test_as_many_texts_are_taken_as_the_limit_says(limits: RequestLimits) -> None:
    most = limits.texts
    for texts in ({"documents": ["x"] * most}, {"query": "x", "documents": ["x"] * (most - 1)}):
        assert len(EmbedRequest.parse(limits, **texts, task="").fields) == most
    for texts in ({"documents": ["x"] * (most + 1)}, {"query": "x", "documents": ["x"] * most}):
        with pytest.raises(InputError) as refusal:
            EmbedRequest.parse(limits, **texts, task="")
        assert refusal.value.field == "queries, documents"
        assert refusal.value.received == f"{most + 1} texts"
        assert refusal.value.remedy == f"send at most {most} in one request"


def test_a_text_may_have_as_many_characters_as_the_limit_says() -> None:
    assert EmbedRequest.parse(document="x" * MAX_CHARACTERS).fields == ["document"]


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EmbedRequest.parse(query="q").query = "another"


BAD = [
    ({}, "query, document", "no text", "send at least one query or document"),
    ({"queries": [], "documents": []}, "query, document", "no text", "send at least one"),
    ({"query": ""}, "query", "blank text", "leave it out"),
    ({"query": "q", "document": " \t\n\N{NO-BREAK SPACE}"}, "document", "blank text", "send text"),
    ({"documents": ["a", "b", " "]}, "documents[2]", "blank text", "send text"),
    ({"query": 5}, "query", "5", "send a string"),
    ({"query": "q", "task": ["a"]}, "task", '["a"]', "send a string"),
    ({"documents": ["a", 7, "b"]}, "documents[1]", "7", "send a string"),
    ({"queries": ["a", None]}, "queries[1]", "null", "send a string"),
    ({"queries": "abc"}, "queries", '"abc"', "send a list of strings"),
    ({"documents": {"a": "b"}}, "documents", '{"a": "b"}', "send a list of strings"),
    ({"query": "q", "normalize": "yes"}, "normalize", '"yes"', "send true or false"),
    ({"query": "q", "normalize": 1}, "normalize", "1", "send true or false"),
    ({"query": "q", "symmetric": "no"}, "symmetric", '"no"', "send true or false"),
    ({"query": "q", "truncate": 0}, "truncate", "0", "send true or false"),
    ({"query": "q", "dimensions": 0}, "dimensions", "0", "send 1 or more"),
    ({"query": "q", "dimensions": -3}, "dimensions", "-3", "send 1 or more"),
    ({"query": "q", "dimensions": 2.5}, "dimensions", "2.5", "send a whole number"),
    ({"query": "q", "dimensions": True}, "dimensions", "true", "send a whole number"),
    ({"query": "q", "dimensions": "8"}, "dimensions", '"8"', "send a whole number"),
    ({"query": "q", "encoding_format": "hex"}, "encoding_format", '"hex"', "'float' or 'base64'"),
    ({"query": "q", "Documents": ["d"]}, "Documents", "an unknown input", INPUTS),
    ({"query": "q", "\ud800": 1}, '"\\ud800"', "an unknown input", INPUTS),
    ({"query": "q", "cls": "x"}, "cls", "an unknown input", INPUTS),
    ({"query": "q", "limits": "x"}, "limits", "an unknown input", INPUTS),
    ({"query": "x" * (MAX_CHARACTERS + 1)}, "query", "1000001 characters", "at most 1000000"),
    ({"query": "q", "task": "x" * (MAX_TASK + 1)}, "task", "10001 characters", "at most 10000"),
    ({"documents": ["d", "x" * (MAX_CHARACTERS + 1)]}, "documents[1]", "1000001 characters", "at"),
]


@pytest.mark.parametrize(("inputs", "field", "received", "remedy"), BAD)
def test_what_is_wrong_is_refused_with_its_field_what_it_held_and_the_remedy(
    inputs: dict[str, Any], field: str, received: str, remedy: str
) -> None:
    with pytest.raises(InputError) as refusal:
        EmbedRequest.parse(**inputs)
    assert refusal.value.field == field
    assert refusal.value.received == received
    assert remedy in refusal.value.remedy
    assert "\n" not in str(refusal.value)


def test_a_long_wrong_value_is_quoted_in_part() -> None:
    with pytest.raises(InputError) as refusal:
        EmbedRequest.parse(query="q", queries="x" * 1000)
    assert len(str(refusal.value)) < 150


@pytest.mark.parametrize("field", ["task", "encoding_format"])
def test_a_lone_surrogate_is_shown_in_a_form_that_can_be_sent(field: str) -> None:
    with pytest.raises(InputError) as refusal:
        EmbedRequest.parse(query="q", **{field: "a\ud800b"})
    assert str(refusal.value).isascii()
    assert refusal.value.field == field
    assert "lone surrogates" in refusal.value.remedy


def test_a_request_has_a_bound_on_all_its_characters() -> None:
    texts = ["x" * 50] * 2
    assert len(EmbedRequest.parse(FEW, documents=texts).fields) == len(texts)
    with pytest.raises(InputError, match="101 characters with their prompts; send at most 100 in"):
        EmbedRequest.parse(FEW, documents=texts, document="x")
    with pytest.raises(InputError, match="150 characters; send at most 100 in one request"):
        EmbedRequest.parse(FEW, documents=["x" * 50] * 3)


@pytest.mark.parametrize(
    ("task", "symmetric", "prompted"),
    [("x" * 10_000, False, 1), ("x" * 10_000, True, 2), ("sts_query", False, 2), ("", True, 0)],
)
def test_the_task_counts_for_each_text_that_carries_it(
    task: str, symmetric: bool, prompted: int
) -> None:
    request = EmbedRequest.parse(task=task, query="abc", document="de", symmetric=symmetric)
    instruction = TASKS[task].instruction if task in TASKS else task
    assert request.num_characters == 5 + prompted * len(instruction)


def test_a_long_task_before_many_queries_is_too_much() -> None:
    texts, task = ["x"] * 3, "x" * 40
    EmbedRequest.parse(FEW, task=task, documents=texts)
    with pytest.raises(InputError, match=r"123 characters with their prompts; send at most"):
        EmbedRequest.parse(FEW, task=task, queries=texts)


def test_an_answer_of_too_many_numbers_is_offered_as_base64() -> None:
    def check(**inputs: Any) -> None:
        EmbedRequest.parse(**inputs).check_answer_size(100, FEW)

    texts = ["x"] * 10
    check(documents=texts)
    with pytest.raises(InputError, match=r"^encoding_format: received 'float' .*send 'base64'"):
        check(documents=texts, query="x")
    check(documents=texts, query="x", dimensions=8)
    check(documents=texts, query="x", encoding_format="base64")
    texts = ["x"] * 20  # scores are numbers too: 400
    check(documents=texts, queries=texts, dimensions=15)
    with pytest.raises(InputError, match="for an answer of 1040 numbers"):
        check(documents=texts, queries=texts, dimensions=16)
    with pytest.raises(InputError, match="send 'base64' for more than 2097152, or fewer texts"):
        EmbedRequest.parse(documents=texts).check_answer_size(110_000)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 100_000, "x" * 57 + "..."),
        ("a\nb", "a b"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("txt\u202eexe", "txt\\u202eexe"),
    ],
)
def test_the_name_of_an_unknown_input_is_shown_in_short_and_in_one_line(
    name: str, shown: str
) -> None:
    with pytest.raises(InputError) as refusal:
        EmbedRequest.parse(query="snow", **{name: 1})
    assert str(refusal.value).startswith(f"{shown}: received an unknown input; ")


@pytest.mark.parametrize(
    ("documents", "part"),
    [
        ([1] * 5_000_000, "5000000 texts"),
        (["x"] * 5_000_000, "5000000 texts"),
        ([" "] * 2048, "blank text"),
        (["x" * 900_000] * 2048, "1843200000 characters"),
        ([1] * 2048, "received 1; "),
        ([["x"] * 1_000_000] * 2048, "documents[0]: received "),
    ],
)
def test_refusing_costs_little_whatever_the_body(documents: list[object], part: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            EmbedRequest.parse(documents=documents)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part in str(caught.value)
    assert peak < 2_000_000  # bytes: nothing was copied


def test_the_numbers_of_an_answer_are_those_of_its_vectors_and_scores() -> None:
    vectors, scores = np.zeros((3, 8), np.float32), np.zeros((1, 2), np.float32)
    answer = Answer(vectors, scores, [5, 3, 3], [False] * 3, "e5@0", metrics={})
    assert answer.num_floats == 26
