"""Pydantic's errors name the caller's field, show its value and say what to send."""

import doctest
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import e5.validation
from e5.errors import InputError
from e5.validation import input_error, wrong_value


def refuse_seven(value: int) -> int:
    if value == 7:
        raise wrong_value("a {seven}", "send {another} number")
    return value


class Inner(BaseModel):
    model_config = ConfigDict(strict=True)

    flag: bool = True
    number: Annotated[int, Field(ge=2), AfterValidator(refuse_seven)] = 2


class Outer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    text: str
    choice: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    inners: Annotated[list[Inner], Field(min_length=1)] = [Inner()]
    names: dict[str, str] = {}


def error_of(body: dict[Any, Any]) -> InputError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(body)
    return input_error(caught.value, Outer.model_fields)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "text: received nothing; send it."),
        ({"text": None}, "text: received nothing; send it."),
        ({"text": 5}, "text: received 5; send a string."),
        ({"text": "", "choice": "\ud800"}, 'choice: received "\\ud800"; send valid Unicode'),
        ({"text": "", "choice": "c"}, "choice: received \"c\"; send 'a' or 'b'."),
        ({"text": "", "inner": 5}, "inner: received 5; send an object."),
        ({"text": "", "names": 5}, "names: received 5; send an object."),
        ({"text": "", "inner": {"flag": "no"}}, 'inner.flag: received "no"; send true or false.'),
        ({"text": "", "inner": {"number": 2.5}}, "inner.number: received 2.5; send a whole number"),
        ({"text": "", "inner": {"number": True}}, "inner.number: received true; send a whole"),
        ({"text": "", "inner": {"number": 1}}, "inner.number: received 1; send 2 or more."),
        ({"text": "", "inners": 5}, "inners: received 5; send a list."),
        ({"text": "", "inners": []}, "inners: received []; send at least 1."),
        ({"text": "", "inners": [None]}, "inners[0]: received null; send an object."),
        ({"text": "", "inners": [{}, {"flag": 1}]}, "inners[1].flag: received 1; send true"),
        (
            {"text": "", "colour": 5},
            "colour: received an unknown input; the inputs are text,",
        ),
        ({"text": "", "\x1b\n": 5}, "\\x1b: received an unknown input"),
    ],
)
def test_the_field_the_value_and_the_remedy_are_said(body: dict[str, Any], sentence: str) -> None:
    assert str(error_of(body)).startswith(sentence)


def test_a_name_that_is_not_unicode_is_shown() -> None:
    assert str(error_of({"text": "", "\ud800": 5})).startswith('"\\ud800": received an unknown')


def test_a_validator_s_own_words_stay_as_they_are() -> None:
    error = error_of({"text": "", "inner": {"number": 7}})
    assert error.field == "inner.number"
    assert (error.received, error.remedy) == ("a {seven}", "send {another} number")


def test_a_long_value_is_shown_in_part() -> None:
    assert len(str(error_of({"text": ["x" * 10**6] * 1000}))) < 200


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(e5.validation, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
