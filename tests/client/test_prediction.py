"""Predictions are read as the service writes them; what anybody else writes does no harm.

The truth are the service's own `Output` and its own errors.
"""

import base64
import doctest
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from e5.client import prediction
from e5.client.prediction import (
    MAX_LINE,
    first_line,
    parse_object,
    read_error,
    read_output,
    read_schema_refusal,
    short_line,
)
from e5.cog import Output
from e5.errors import (
    E5Error,
    EngineError,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
)
from e5.serving import Answer
from e5.vectors import Vectors

ROW = "AACAPwAAAEA="  # [1, 2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
SENTENCES = [
    InputError("documents[2]", "7", "send a string"),
    InputError("queries, documents", "2049 texts", "send at most 2048"),
    NonFiniteError(2, "documents[2]"),
    OutOfMemoryError(5000, 4, "queries[4]"),
    QueueFullError(10, 20, 25),
    RequestTooLargeError(30, 25),
    EngineError("the engine failed: its log has the reason."),
]


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2),
        elements=st.floats(width=32, allow_nan=False),
    )
)
def test_vectors_are_read_bit_by_bit_as_the_service_wrote_them(vectors: Vectors) -> None:
    tokens, truncated = list(range(len(vectors))), [True] * len(vectors)
    scores = np.empty((0, 0), np.float32)
    answer = Answer(vectors, scores, tokens, truncated, "model@1", {})
    output = Output.of(answer, encoding_format="base64").model_dump()
    embedded = read_output(json.loads(json.dumps(output)))
    assert embedded.vectors.dtype == np.float32
    assert embedded.vectors.tobytes() == vectors.tobytes()
    assert embedded.vectors.shape == vectors.shape
    assert embedded.model == "model@1"
    assert (embedded.tokens, embedded.truncated) == (tokens, truncated)


def test_vectors_may_be_written_to() -> None:
    vectors = read_output({"embeddings_base64": [ROW], "model": "m"}).vectors
    vectors /= 2
    assert vectors.tolist() == [[0.5, 1]]


@pytest.mark.parametrize("usage", [{}, {"usage": None}])
def test_a_service_need_not_report_the_usage(usage: dict[str, Any]) -> None:
    embedded = read_output({"embeddings_base64": [ROW], "model": "m", **usage})
    assert (embedded.tokens, embedded.truncated) == ([], [])


@pytest.mark.parametrize(
    "usage",
    [
        7,
        [],
        {},
        {"tokens": [3]},
        {"truncated": [False]},
        {"tokens": [], "truncated": []},
        {"tokens": [3, 3], "truncated": [False, False]},
        {"tokens": [True], "truncated": [False]},
        {"tokens": ["3"], "truncated": [False]},
        {"tokens": [3], "truncated": [0]},
        {"tokens": [3], "truncated": None},
        {"tokens": {"0": 3}, "truncated": [False]},
    ],
)
def test_a_usage_that_is_reported_is_one_of_each_text(usage: Any) -> None:
    with pytest.raises(ValueError, match=r"^no usage with (tokens|truncated) of each text$"):
        read_output({"embeddings_base64": [ROW], "model": "m", "usage": usage})


@pytest.mark.parametrize(
    "output",
    [
        None,
        7,
        [],
        "text",
        {},
        {"embeddings": [[1.0]], "model": "m"},
        {"embeddings_base64": None, "model": "m"},
        {"embeddings_base64": [], "model": "m"},
        {"embeddings_base64": ROW, "model": "m"},
        {"embeddings_base64": [ROW]},
        {"embeddings_base64": [ROW], "model": None},
        {"embeddings_base64": [None], "model": "m"},
        {"embeddings_base64": [[1.0, 2.0]], "model": "m"},
        {"embeddings_base64": [ROW, "AACAPw=="], "model": "m"},
        {"embeddings_base64": ["AACA"], "model": "m"},
        {"embeddings_base64": [f"{ROW}\n"], "model": "m"},
        {"embeddings_base64": ["\N{GRINNING FACE}"], "model": "m"},
    ],
)
def test_an_output_without_vectors_of_one_width_is_an_error(output: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_output(output)


@given(JSON)
def test_no_output_breaks_the_reader(output: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_output(output)


@given(JSON)
@example({"detail": []})
@example({"detail": [{"loc": [], "msg": "m"}]})
@example({"detail": [{"loc": ["body"]}]})
@example({"detail": {"a": 1}})
@example({"detail": "a string"})
def test_any_answer_can_be_read_as_a_refusal(answer: Any) -> None:
    assert read_schema_refusal(parse_object(json.dumps(answer).encode())) is None


@pytest.mark.parametrize("error", SENTENCES, ids=lambda error: type(error).__name__)
def test_an_error_of_ours_is_itself_again(error: E5Error) -> None:
    again = read_error({"error": "something else", "metrics": {"error": error.to_dict()}})
    assert type(again) is type(error)
    assert again.to_dict() == error.to_dict()
    assert str(again) == str(error)


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("Worker crashed", "the service failed: Worker crashed."),
        ("Exception: x.", "the service failed: Exception: x."),
        ("Prediction failed: x.", "the service failed: x."),
        ("Prediction failed: Async prediction failed: x", "the service failed: x."),
        ("Prediction failed: ", "the service failed: no reason given."),
        # A sentence is for people, whatever it looks like.
        (
            "InputError: queries[0]: received 7; send a string.",
            "the service failed: InputError: queries[0]: received 7; send a string.",
        ),
        (None, "the service failed: no reason given."),
        ("", "the service failed: no reason given."),
        (["x"], "the service failed: ['x']."),
    ],
)
@pytest.mark.parametrize("metrics", [None, 7, {}, {"error": 7}, {"error": {"type": "KeyError"}}])
def test_a_failure_without_the_data_of_an_error_is_an_engine_error(
    reason: object, sentence: str, metrics: object
) -> None:
    error = read_error({"error": reason, "metrics": metrics})
    assert type(error) is EngineError
    assert str(error) == sentence


@given(JSON)
def test_no_failed_prediction_breaks_the_reader_of_errors(value: Any) -> None:
    for failed in ({"error": value}, {"metrics": value}, {"metrics": {"error": value}}):
        error = read_error(failed)
        assert type(error) is EngineError
        assert str(error).isprintable()


def test_a_schema_s_complaint_names_the_field_as_we_do() -> None:
    complaint = {
        "loc": ["body", "input", "queries/12"],
        "msg": '7 is not of type "string"',
        "type": "value_error",
    }
    error = read_schema_refusal({"detail": [complaint, {"loc": [], "msg": ""}]})
    assert isinstance(error, InputError)
    assert error.field == "queries[12]"
    assert '7 is not of type "string"' in str(error)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b"<html>"])
def test_what_is_no_json_object_is_read_as_an_empty_one(body: bytes) -> None:
    assert parse_object(body) == {}


@given(st.text(st.characters()))
@example("a\x1b[31mb\x07\n\u202ec")
@example("x" * 5000)
@example("\ud800")
def test_a_text_is_shown_on_one_printable_line(text: str) -> None:
    line = short_line(text)
    assert line
    assert line.isprintable()
    assert len(line) <= MAX_LINE


@given(st.binary())
@example(b"\x1b[31m\x07\xff red" + b"x" * 5000)
@example(b"\n \n")
def test_a_body_is_shown_on_one_short_line(body: bytes) -> None:
    line = first_line(body)
    assert line.isprintable()
    assert 0 < len(line) <= 60


def test_nothing_is_shown_of_a_traceback() -> None:
    line = short_line(
        'it broke\nTraceback (most recent call last):\n  File "/srv/secret.py", line 1'
    )
    assert line == "it broke"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4))
def test_bytes_are_little_endian_whatever_this_machine_is(row: list[float]) -> None:
    content = struct.pack(f"<{len(row)}f", *row)
    text = base64.b64encode(content).decode()
    vectors = read_output({"embeddings_base64": [text], "model": "m"}).vectors
    assert vectors.tolist() == [row]


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(prediction, raise_on_error=True)
    assert result.attempted >= 3
