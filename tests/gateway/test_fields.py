"""A field has its type or is refused under the caller's name of it; null is absent."""

import doctest
from collections.abc import Callable
from typing import Any

import pytest

from e5.errors import InputError
from e5.gateway import fields
from e5.gateway.fields import TOKENS, Fields, truncate_of
from e5.serving.request import MAX_TEXTS

READERS: list[tuple[Callable[[Fields], Any], Any, list[Any]]] = [  # reader, good value, bad ones
    (lambda f: f.text("x"), "a", [1, True, ["a"], {}]),
    (lambda f: f.flag("x", False), True, [1, "true", "yes", []]),
    (lambda f: f.integer("x"), 8, [1.5, "8", True, [8]]),
    (lambda f: f.choice("x", ("float", "base64"), "float"), "base64", ["hex", 4, ["float"]]),
    (lambda f: f.object("x").any("y"), {"y": 1}, ["a", 1, [1]]),
]


@pytest.mark.parametrize(("read", "good", "bad"), READERS)
def test_a_value_of_another_type_is_refused_by_name(
    read: Callable[[Fields], Any], good: Any, bad: list[Any]
) -> None:
    read(Fields({"x": good}))
    for value in bad:
        with pytest.raises(InputError) as caught:
            read(Fields({"x": value}))
        assert caught.value.field == "x"
        with pytest.raises(InputError, match=r"^parameters\.x: "):
            read(Fields({"parameters": {"x": value}}).object("parameters"))


@pytest.mark.parametrize("read", [read for read, _, _ in READERS])
def test_null_is_absent(read: Callable[[Fields], Any]) -> None:
    assert read(Fields({"x": None})) == read(Fields({}))
    assert "x" not in Fields({"x": None})
    assert "x" in Fields({"x": False})


def test_false_and_zero_are_not_absent() -> None:
    assert Fields({"x": False}).flag("x", True) is False
    assert Fields({"x": 0}).integer("x") == 0
    assert Fields({"x": ""}).text("x") == ""


def test_an_integer_may_have_two_names() -> None:
    assert Fields({"b": 2}).integer("a", "b") == 2
    assert Fields({"a": None, "b": 2}).integer("a", "b") == 2
    assert Fields({"a": 1, "b": 2}).integer("a", "b") == 1


def test_a_choice_ignores_case() -> None:
    assert Fields({"x": "BASE64"}).choice("x", ("float", "base64"), "float") == "base64"


def test_what_is_needed_and_not_there_is_said() -> None:
    for body in ({}, {"x": None}):
        with pytest.raises(InputError, match=r"^x: received nothing; send it\.$"):
            Fields(body).required("x")


def test_one_text_is_a_list_of_one_where_that_is_allowed() -> None:
    assert Fields({"input": "a"}).texts("input") == (["a"], ["input"])
    assert Fields({"input": ["a", "b"]}).texts("input") == (["a", "b"], ["input[0]", "input[1]"])
    with pytest.raises(InputError, match=r"^texts: received \"a\"; send a list of strings\.$"):
        Fields({"texts": "a"}).texts("texts", single=False)


@pytest.mark.parametrize("value", [5, True, {"a": "b"}, 1.5])
def test_what_is_no_list_is_no_texts(value: object) -> None:
    with pytest.raises(InputError, match=r"^input: .*send a string or a list of strings"):
        Fields({"input": value}).texts("input")


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(InputError, match=r"^input: received no text"):
        Fields({"input": []}).texts("input")


@pytest.mark.parametrize("value", [[1, 2, 3], [[12840, 374], [5]], [0], [[-1]]])
def test_token_ids_are_refused_with_the_setting_that_helps(value: object) -> None:
    with pytest.raises(InputError) as caught:
        Fields({"input": value}).texts("input")
    assert caught.value.field == "input"
    assert caught.value.received == "token ids"
    assert caught.value.remedy == TOKENS
    assert "check_embedding_ctx_length=False" in TOKENS


def test_as_many_texts_as_may_be_and_no_more() -> None:
    assert len(Fields({"input": ["a"] * MAX_TEXTS}).texts("input")[1]) == MAX_TEXTS
    for count in (MAX_TEXTS + 1, 10_000):
        with pytest.raises(InputError, match=f"^input: received {count} texts; send at most 2048"):
            Fields({"input": ["a"] * count}).texts("input")


@pytest.mark.parametrize(
    ("body", "cuts"),
    [
        ({}, True),
        ({"truncate": None}, True),
        ({"truncate": "END"}, True),
        ({"truncate": "NONE"}, False),
        ({"truncate": "none"}, False),
        ({"truncate": True}, True),
        ({"truncate": False}, False),
        ({"truncation": False}, False),
        ({"truncation": True}, True),
        ({"truncation": None, "truncate": "NONE"}, False),
    ],
)
def test_every_way_to_say_whether_to_cut(body: dict[str, Any], cuts: bool) -> None:
    assert truncate_of(Fields(body)) is cuts


@pytest.mark.parametrize("value", ["START", "maybe", 1, []])
def test_other_ways_to_cut_are_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^truncate: "):
        truncate_of(Fields({"truncate": value}))


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(fields, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
