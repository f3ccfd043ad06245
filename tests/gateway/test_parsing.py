"""Bytes are JSON, or a sentence says what is wrong with them, and in which text."""

import doctest
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.errors import InputError
from e5.gateway import parsing
from e5.gateway.parsing import parse_body

TEXTS = '{"model": "m", "input": ["snow", "Grüße, Müsli und Wörter"]}'


def sentence_about(body: bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse_body(body)
    return str(caught.value)


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text() | st.floats(-1, 1),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30,
), st.booleans())  # fmt: skip
def test_json_is_what_it_says(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_body(text) == value
    assert parse_body(b"\xef\xbb\xbf" + text) == value  # as Windows' editors write it


REMEDIES = {  # by the beginning of what was received
    "a lone surrogate": "send valid Unicode, without lone surrogates",
    "bytes that": "send the body in UTF-8",
    "UTF-": "send JSON in UTF-8",
    "nothing": "send JSON",
    "NaN": "send a number, a string or null",
    "-Infinity": "send a number, a string or null",
    "a number that": "send a smaller one",
    "too many": "send texts",
    "2 values": "send one",
}
NOT_UTF8 = "bytes that are not UTF-8"
LARGE = "a number that is too large"
NESTED = "too many lists or objects in each other"
TWICE = "2 values in one object"


@pytest.mark.parametrize(
    ("body", "field", "received"),
    [
        (b'{"input": "\\ud83d"}', "input", "a lone surrogate (character 0)"),
        (b'{"input": ["a", "b\\ude42c"]}', "input[1]", "a lone surrogate (character 1)"),
        (b'["\\udc80"]', "[0]", "a lone surrogate (character 0)"),
        (b'"\\ud800\\ud800"', "the body", "a lone surrogate (character 0)"),
        (
            b'{"requests": [{"parts": ["a"]}, {"parts": [{"text": "a"}, {"text": "\\ud800"}]}]}',
            "requests[1].parts[1].text",
            "a lone surrogate (character 0)",
        ),
        (b'{"\\ud800": 1}', "the names of fields", "a lone surrogate (character 0)"),
        (TEXTS.encode("latin-1"), "input[1]", f"{NOT_UTF8} (0xfc, character 2)"),
        (TEXTS.replace("ü", "“").encode("cp1252"), "input[1]", f"{NOT_UTF8} (0x93, character 2)"),
        (TEXTS.replace("ü", "日").encode("gb18030"), "input[1]", f"{NOT_UTF8} (0xc8, character 2)"),
        (b'{"input": ["\xed\xa0\xbd\xed\xb8\x80"]}', "input[0]", f"{NOT_UTF8} (0xed, character 0)"),
        (b'{"input": "a\xc0\x80"}', "input", f"{NOT_UTF8} (0xc0, character 1)"),
        (b"\x1f\x8b\x08\x00", "the body", f"{NOT_UTF8} (0x8b, character 1)"),
        (TEXTS.encode("utf-16"), "the body", "UTF-16"),
        (TEXTS.encode("utf-16-be"), "the body", "UTF-16"),
        (TEXTS.encode("utf-32-le"), "the body", "UTF-32"),
        (b"", "the body", "nothing"),
        (b" \n", "the body", "nothing"),
        (b'{"input": ["a", NaN]}', "input[1]", "NaN"),
        (b'{"top_n": -Infinity}', "top_n", "-Infinity"),
        (b'{"dimensions": 1e999}', "dimensions", LARGE),
        (b'{"dimensions": ' + 5000 * b"9" + b"}", "dimensions", LARGE),
        (1100 * b"[" + 1100 * b"]", "the body", NESTED),
        (5000 * b'{"a":' + b"0" + 5000 * b"}", "the body", NESTED),
        (b'{"input": "a", "input": "b"}', "input", TWICE),
        (b'{"input": "a", "model": "m", "input" : "b"}', "input", TWICE),
        (b'{"input": {"query": "a", "query": "b"}}', "query", TWICE),
        (b"{" + b",".join(b'"%d": 0' % (i % 50) for i in range(51)) + b"}", "0", TWICE),
    ],
)
def test_a_sentence_says_what_is_wrong(body: bytes, field: str, received: str) -> None:
    remedy = next(text for beginning, text in REMEDIES.items() if received.startswith(beginning))
    assert sentence_about(body) == f"{field}: received {received}; {remedy}."


@pytest.mark.parametrize(
    "body",
    [b"snow", b"{", b"{'input': 'a'}", b'{"a": 1,}', b'{"a": "\t"}', b'{"a": 1}{}', b"\0\0"],
)
def test_what_is_no_json_at_all_has_the_parser_s_reason(body: bytes) -> None:
    sentence = sentence_about(body)
    assert sentence.startswith("the body: received what is not JSON (")
    assert sentence.endswith("); send JSON.")


@pytest.mark.parametrize(
    "value",
    [
        {"model": "input", "input": ["input", '"input": "model"']},
        {"inputs": {"model": "a"}, "model": "b"},
        {"requests": [{"text": "a"}, {"text": "b"}]},
        {str(i): i for i in range(100)},
    ],
)
def test_a_name_may_be_in_several_objects(value: Any) -> None:
    assert parse_body(json.dumps(value).encode()) == value


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(parsing, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
