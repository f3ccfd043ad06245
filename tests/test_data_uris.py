"""A text that is a data URI is what it holds, and every other text is itself."""

import base64
import doctest
import math
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5 import data_uris
from e5.data_uris import ESCAPED, change_texts, escape, read_data_uri, unescape
from e5.errors import InputError
from e5.texts import MAX_CHARACTERS

TEXT = "Zürich ist eine Stadt.\n\u96ea \N{GRINNING FACE}\n"


def base64_of(content: str | bytes) -> str:
    as_bytes = content.encode() if isinstance(content, str) else content
    return base64.b64encode(as_bytes).decode()


URL_SAFE = base64.urlsafe_b64encode("ÿ?>ÿ".encode()).decode()
LINES = base64.encodebytes(TEXT.encode() * 5).decode()
URIS = {
    "data:text/plain;charset=utf-8;base64," + base64_of(TEXT): TEXT,  # Cog's command line
    "data:application/octet-stream;base64," + base64_of(TEXT): TEXT,
    "data:application/json;base64," + base64_of('{"a": 1}'): '{"a": 1}',
    "data:text/plain; charset=utf-8;base64," + base64_of(TEXT): TEXT,
    "data:text/plain;charset=us-ascii;base64," + base64_of(TEXT): TEXT,
    "data:text/plain;charset=iso-8859-1;base64," + base64_of("ASCII alone"): "ASCII alone",
    'data:text/plain;name="a,b.txt";charset="UTF-8";base64,' + base64_of(TEXT): TEXT,
    "data:image/svg+xml;base64," + base64_of("<svg/>"): "<svg/>",
    "data:;base64," + base64_of(TEXT): TEXT,
    "data:None;base64," + base64_of(TEXT): TEXT,  # Python where it knows no type of a file
    "DATA:TEXT/PLAIN;BASE64," + base64_of(TEXT): TEXT,
    "data:text/plain;base64," + base64_of("\ufeff" + TEXT): TEXT,
    "data:text/plain;base64," + base64_of("a\x00b"): "a\x00b",  # as a text may have it
    "data:text/plain;base64," + base64_of("snow!").rstrip("="): "snow!",
    "data:text/plain;base64," + URL_SAFE: "ÿ?>ÿ",
    "data:text/plain;base64," + URL_SAFE.replace("=", "%3D"): "ÿ?>ÿ",
    "data:text/plain;base64," + LINES: TEXT * 5,
    "data:text/plain;base64," + LINES.replace("\n", "\r\n"): TEXT * 5,
    "data:text/plain;base64,": "",
    "data:,A%20brief%20note": "A brief note",
    "data:text/plain;charset=UTF-8;page=21,the%20data:1234,5678": "the data:1234,5678",
    "data:text/plain,Z%C3%BCrich": "Zürich",
    "data:text/plain,Zürich": "Zürich",
    "data:text/html,%3Cb%3E50%25%3C/b%3E?a=b#c": "<b>50%</b>?a=b#c",
}


@pytest.mark.parametrize("uri", URIS)
def test_a_data_uri_is_the_text_that_it_holds(uri: str) -> None:
    assert read_data_uri(uri, "query") == URIS[uri]


@pytest.mark.parametrize(
    "text",
    ["", "data", "data:", "data: the new oil", "data:foo, bar", "data:foo,bar", "data:,two words",
     "data:text/plain", "data:text/plain;base64", "data:text/plain;charset=utf-8", "data:a/b c,d",
     "data:text/plain,100% wool", "data:text/plain,100%", "data:text/plain,%zz", "data:,a\x00b",
     "data:types; base64, hexadecimal", "data:see a/b; base64, or c", "data:a/b;c,d", "data:;x,y",
     " data:,a", "database:,a", "see data:text/plain;base64,c25vdw==", "data:text/plain,a\nb",
     "data:,\ud800", "metadata", "Data: sheet"],
)  # fmt: skip
def test_another_text_is_itself(text: str) -> None:
    assert read_data_uri(text, "query") == escape(text, "query") == unescape(text, "query") == text


@pytest.mark.parametrize(
    ("uri", "received"),
    [
        ("data:image/png;base64," + base64_of(b"\x89PNG\r\n\x1a\n"), "image/png of 8 bytes, which"),
        ("data:text/plain,h%E9", "text/plain of 2 bytes, which"),
        ("data:;base64,/w==", "a data URI of 1 bytes, which"),
        ("data:text/plain;base64," + base64_of(TEXT.encode("utf-16")), "text/plain of 58 bytes, "),
        ("data:text/plain;base64," + base64_of("Snow.".encode("utf-16-le")), "text/plain of 10 "),
        ("data:text/plain;base64," + base64_of("It\u2019s".encode("utf-16-be")), "text/plain of 8"),
        ("data:text/plain;base64," + base64_of("Snow.".encode("utf-32-be")), "text/plain of 20 "),
        ("data:text/plain;base64," + base64_of("Снег.".encode("utf-16-le")), "text/plain of 10"),
        ("data:text/plain;charset=utf-16,snow", "text/plain;charset=utf-16 of 4 bytes, which"),
        ("data:a/b;charset=latin1;base64," + base64_of(TEXT), "a/b;charset=latin1 of 33 bytes, "),
        ("data:text/plain;charset=klingon,snow", "text/plain;charset=klingon of 4 bytes, which"),
        ("data:text/plain;charset=hex,aabb", "text/plain;charset=hex of 4 bytes, which"),
    ],
)  # fmt: skip
def test_what_is_no_text_in_utf_8_is_refused_by_name(uri: str, received: str) -> None:
    with pytest.raises(InputError) as caught:
        read_data_uri(uri, "documents[3]")
    assert str(caught.value).startswith(f"documents[3]: received {received}")
    assert str(caught.value).endswith(
        "which is not text in UTF-8; send text, or a file of text in UTF-8."
    )


@pytest.mark.parametrize(
    "payload", ["c25vd", "c25vdw=", "c25vdyE==", "====", "=", "c2=5", "c25v!", "Zürich", "c25v%0"]
)
def test_damaged_base64_is_refused_by_name_and_not_shown(payload: str) -> None:
    with pytest.raises(InputError) as caught:
        read_data_uri(f"data:text/plain;base64,{payload}", "query")
    assert str(caught.value) == (
        f"query: received text/plain in damaged base64 of {len(payload)} characters; "
        "send text, or a file of text in UTF-8."
    )


def test_a_long_or_strange_media_type_is_shortened() -> None:
    with pytest.raises(InputError) as caught:
        read_data_uri("data:a/b;c=" + "\x1bd" * 9999 + ";base64,/w==", "query")
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.slow
def test_a_text_of_all_characters_that_it_may_have_is_read_however_it_is_written() -> None:
    text = "\N{GRINNING FACE}" * MAX_CHARACTERS
    assert read_data_uri("data:text/plain;base64," + base64_of(text), "query") == text
    written = "%F0%9F%98%80" * MAX_CHARACTERS
    assert read_data_uri("data:text/plain," + written, "query") == text
    too_long = "data:text/plain," + written + written[:12_000]
    assert read_data_uri(too_long, "query") is too_long  # which is refused by its length


@given(st.text(), st.sampled_from(["text/plain", "", "text/plain;charset=utf-8", "a/b"]))
def test_any_text_comes_back_in_either_form(text: str, media_type: str) -> None:
    for uri in (f"data:{media_type};base64,{base64_of(text)}", f"data:{media_type},{quote(text)}"):
        if sum(character < " " for character in text) * 3 <= len(text):  # else it may be UTF-16
            assert read_data_uri(uri, "query") == text.removeprefix("\ufeff")


@given(
    st.text()
    | st.text(max_size=5).map("data:,".__add__)
    | st.text(max_size=5).map("data:text/plain;base64,".__add__)
    | st.text(max_size=5).map(ESCAPED.__add__)
)
@example("data:;base64," + "\x00" * 99)
@example(ESCAPED + base64_of("snow"))
def test_an_escaped_text_is_the_text_itself(text: str) -> None:
    assert read_data_uri(escape(text, "query"), "query") == text
    assert unescape(escape(text, "query"), "query") == text


def test_the_texts_among_inputs_are_changed_and_nothing_else() -> None:
    uri = "data:,snow"
    inputs: dict[str, Any] = {
        "task": uri,
        "query": uri,
        "document": None,
        "queries": ["a", uri, None, uri, 7],
        "documents": uri,
        "encoding_format": uri,
        "unknown": [uri],
    }
    fields: list[str] = []

    def change(text: str, field: str) -> str:
        fields.append(field)
        return read_data_uri(text, field)

    assert change_texts(inputs, change) == inputs | {
        "task": "snow",
        "query": "snow",
        "queries": ["a", "snow", None, "snow", 7],
    }
    assert sorted(fields) == ["queries[1]", "queries[3]", "query", "task"]
    assert inputs["query"] is uri


@pytest.mark.parametrize(("max_texts", "expected"), [(1, "data:,a"), (2, "a"), (math.inf, "a")])
def test_a_list_of_too_many_texts_stays_as_it_is(max_texts: float, expected: str) -> None:
    texts = ["data:,a"] * 2
    found = change_texts({"documents": texts}, read_data_uri, max_texts=max_texts)["documents"]
    assert found == [expected] * 2
    assert (found is texts) == (max_texts == 1)


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(data_uris, raise_on_error=True)
    assert result.attempted > 0
