"""What a request may be, and what the answer is made of."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from e5.errors import InputError
from e5.prompts import DEFAULT_TASK, TASKS
from e5.types import (
    INPUTS,
    MAX_ALL_CHARACTERS,
    MAX_CHARACTERS,
    MAX_FLOATS,
    MAX_TASK,
    MAX_TEXTS,
    EmbedRequest,
    Output,
    Usage,
    encode_base64,
    nine_digits,
)

NO_SCORES = np.empty((0, 1), np.float32)


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def an_output(encoding_format: str = "float") -> Output:
    return Output.of(
        floats([1.5, -2.0], [0.25, 3.0]),
        floats([42.5]),
        Usage(tokens=[7, 3], truncated=[False, True]),
        "e5@0123456789ab",
        encoding_format=encoding_format,
    )


def test_queries_come_first_then_documents_each_in_the_order_given() -> None:
    request = EmbedRequest.parse(
        documents=["d1", "d2"], queries=["q1", "q2"], document="d0", query="q0", task=""
    )
    assert request.fields == [
        *("query", "queries[0]", "queries[1]"),
        *("document", "documents[0]", "documents[1]"),
    ]
    assert request.prompts == ["q0", "q1", "q2", "d0", "d1", "d2"]
    assert request.num_queries == 3


def test_queries_carry_the_task_and_documents_do_not() -> None:
    request = EmbedRequest.parse(query="q", documents=["d"])
    assert request.prompts == [f"Instruct: {DEFAULT_TASK}\nQuery: q", "d"]


def test_a_named_task_is_its_instruction() -> None:
    named = EmbedRequest.parse(task="SciFact", query="q", document="d")
    written = EmbedRequest.parse(task=TASKS["SciFact"].instruction, query="q", document="d")
    assert named.prompts == written.prompts


def test_symmetric_puts_the_task_on_documents_too() -> None:
    request = EmbedRequest.parse(task="Match", query="x", document="x", symmetric=True)
    assert request.prompts == ["Instruct: Match\nQuery: x"] * 2


def test_a_registered_symmetric_task_needs_no_flag() -> None:
    queries, documents = EmbedRequest.parse(task="sts_query", query="x", document="x").prompts
    assert queries == documents == "Instruct: Retrieve semantically similar text.\nQuery: x"


def test_none_means_not_given() -> None:
    nothing_else = dict.fromkeys(EmbedRequest.model_fields)
    assert EmbedRequest.parse(**{**nothing_else, "query": "q"}) == EmbedRequest.parse(query="q")


def test_an_empty_list_means_not_given() -> None:
    assert EmbedRequest.parse(query="q", documents=[], queries=[]).fields == ["query"]


def test_text_is_kept_as_it_is() -> None:
    text = "  a\x00\x07\t\N{GRINNING FACE} \n"
    assert EmbedRequest.parse(document=text).prompts == [text]


@pytest.mark.parametrize("limit", [1, MAX_TEXTS])
def test_as_many_texts_are_taken_as_the_limit_says(limit: int) -> None:
    assert len(EmbedRequest.parse(documents=["x"] * limit).fields) == limit
    assert len(EmbedRequest.parse(query="x", documents=["x"] * (limit - 1)).fields) == limit


def test_a_text_may_have_as_many_characters_as_the_limit_says() -> None:
    assert EmbedRequest.parse(document="x" * MAX_CHARACTERS).fields == ["document"]


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EmbedRequest.parse(query="q").query = "another"


BAD = [
    ({}, "query, document", "no text", "send at least one query or document"),
    ({"queries": [], "documents": []}, "query, document", "no text", "send at least one"),
    ({"query": ""}, "query", "blank text", "leave the field out"),
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
    ({"query": "q", "cls": "x"}, "cls", "an unknown input", INPUTS),
    ({"documents": ["x"] * (MAX_TEXTS + 1)}, "queries, documents", "2049 texts", "at most 2048"),
    ({"query": "q", "documents": ["x"] * MAX_TEXTS}, "queries, documents", "2049 texts", "2048"),
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


def test_the_answer_is_a_mapping_that_cog_does_not_walk_and_json_takes() -> None:
    dumped = an_output().model_dump()
    assert isinstance(dumped, dict)
    assert type(dumped) is not dict, "Cog walks a plain dict element by element, in Python"
    assert json.loads(json.dumps(dumped)) == {
        "embeddings": [[1.5, -2.0], [0.25, 3.0]],
        "embeddings_base64": None,
        "score": 42.5,
        "scores": [[42.5]],
        "usage": {"tokens": [7, 3], "truncated": [False, True]},
        "model": "e5@0123456789ab",
    }


def test_the_answer_holds_plain_python_values_only() -> None:
    def assert_plain(value: object) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for child in value:
                assert_plain(child)
        else:
            assert value is None or type(value) in (str, bool, int, float)

    assert_plain(an_output().model_dump())
    assert_plain(an_output("base64").model_dump())


def test_base64_takes_the_place_of_the_numbers() -> None:
    output = an_output("base64").model_dump()
    assert output["embeddings"] is None
    assert output["embeddings_base64"] == [
        encode_base64(row) for row in floats([1.5, -2], [0.25, 3])
    ]
    assert output["score"] == 42.5


def test_base64_is_little_endian_float32() -> None:
    assert base64.b64decode(encode_base64(floats([1.0, -2.0])[0])) == bytes.fromhex(
        "0000803f000000c0"
    )
    big_endian = np.array([1.0, -2.0], ">f4").view()
    assert encode_base64(big_endian) == encode_base64(floats([1.0, -2.0])[0])


@pytest.mark.parametrize(
    ("scores", "score", "matrix"),
    [
        (floats([50.0]), 50.0, [[50.0]]),
        (floats([50.0, 25.0]), None, [[50.0, 25.0]]),
        (floats([50.0], [25.0]), None, [[50.0], [25.0]]),
        (np.empty((0, 1), np.float32), None, None),
        (np.empty((2, 0), np.float32), None, None),
    ],
)
def test_one_query_and_one_document_get_a_score_and_every_pair_gets_scores(
    scores: NDArray[np.float32], score: float | None, matrix: list[list[float]] | None
) -> None:
    usage = Usage(tokens=[3], truncated=[False])
    output = Output.of(floats([1.0]), scores, usage, "e5@0", encoding_format="float")
    assert output.score == score
    assert output.scores == matrix


def test_nine_digits_name_every_float32() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    edges = [0.0, -0.0, 1.0, 9.9999999e-5, 1e-45, 1.17549435e-38, 3.4028235e38, -1e10, 16777216.0]
    tens = (10.0 ** np.arange(-44, 39)).astype(np.float32)
    values = np.concatenate(
        [
            bits,
            np.array(edges, np.float32),
            tens,
            np.nextafter(tens, 0),
            np.nextafter(tens, np.inf),
        ],
        dtype=np.float32,
    )
    values = values[np.isfinite(values)]
    sent = np.array(json.loads(json.dumps(nine_digits(values).tolist())), np.float32)
    assert sent.tobytes() == values.tobytes()


def test_nine_digits_are_at_most_nine() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for number in nine_digits(values).tolist():
        assert len(f"{number!r}".lstrip("-0.").replace(".", "").split("e")[0]) <= 9, number


def test_a_request_has_a_bound_on_all_its_characters() -> None:
    texts = ["x" * MAX_CHARACTERS] * (MAX_ALL_CHARACTERS // MAX_CHARACTERS)
    assert len(EmbedRequest.parse(documents=texts).fields) == len(texts)
    with pytest.raises(InputError, match=rf"send at most {MAX_ALL_CHARACTERS} in one request"):
        EmbedRequest.parse(documents=texts, document="one more")


def test_an_answer_of_too_many_numbers_is_offered_as_base64() -> None:
    texts = ["x"] * (MAX_FLOATS // 4096)
    EmbedRequest.parse(documents=texts).check_answer(4096)
    with pytest.raises(InputError, match=r"^encoding_format: received 'float' .*send 'base64'"):
        EmbedRequest.parse(documents=texts, query="x").check_answer(4096)
    EmbedRequest.parse(documents=texts, query="x", dimensions=8).check_answer(4096)
    EmbedRequest.parse(documents=texts, query="x", encoding_format="base64").check_answer(4096)
    texts = ["x"] * 1000  # scores are numbers too: a million
    EmbedRequest.parse(documents=texts, queries=texts, dimensions=512).check_answer(4096)
    with pytest.raises(InputError, match="for an answer of 2200000 numbers"):
        EmbedRequest.parse(documents=texts, queries=texts, dimensions=600).check_answer(4096)


@pytest.mark.parametrize(("name", "shown"), [("x" * 100_000, "x" * 57 + "..."), ("a\nb", "a b")])
def test_the_name_of_an_unknown_input_is_shown_in_short_and_in_one_line(
    name: str, shown: str
) -> None:
    with pytest.raises(InputError) as refusal:
        EmbedRequest.parse(query="snow", **{name: 1})
    assert str(refusal.value).startswith(f"{shown}: received an unknown input; ")
