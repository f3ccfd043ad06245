"""A field has its type or is refused under the caller's name of it; null is absent."""

import doctest
import tracemalloc
from typing import Annotated, Any, Literal

import pytest

from e5.errors import InputError
from e5.gateway import wire
from e5.gateway.model_names import ModelNames
from e5.gateway.wire import (
    MAX_TEXTS,
    TOKEN_IDS_REMEDY,
    Count,
    Dimensions,
    OneOrMoreTexts,
    Role,
    RouteContext,
    Texts,
    Truncate,
    TruncateOptions,
    WireRequest,
    named_texts,
    one_of,
)


class Options(WireRequest):
    """One field of each kind."""

    role: Role = None
    flag: bool | None = None
    count: Count | None = None
    dimensions: Dimensions = None
    choice: Annotated[Literal["float", "base64"] | None, one_of("float", "base64")] = None
    truncate: Truncate = None


class Body(WireRequest):
    """The same inside an object, and texts."""

    parameters: Options | None = None
    input: OneOrMoreTexts = ""
    texts: Texts | None = None


FIELDS: list[tuple[str, Any, list[Any]]] = [  # name, good value, bad ones
    ("role", "a", [1, True, ["a"], {}]),
    ("flag", True, [1, "true", "yes", []]),
    ("count", 8, [1.5, "8", True, [8], 0, -1]),
    ("dimensions", 8, [1.5, "8", True, [8], 0, -1]),
    ("choice", "base64", ["hex", 4, ["float"], True]),
    ("truncate", True, ["START", "maybe", 1, []]),
]


@pytest.mark.parametrize(("name", "good", "bad"), FIELDS)
def test_a_value_of_another_type_is_refused_by_name(name: str, good: Any, bad: list[Any]) -> None:
    assert getattr(Options.parse({name: good}), name) == good
    for value in bad:
        with pytest.raises(InputError) as caught:
            Options.parse({name: value})
        assert caught.value.field == name
        with pytest.raises(InputError, match=rf"^parameters\.{name}: "):
            Body.parse({"parameters": {name: value}})


@pytest.mark.parametrize("name", [name for name, _, _ in FIELDS])
def test_null_is_absent(name: str) -> None:
    assert Options.parse({name: None}) == Options.parse({})


def test_an_unknown_field_is_ignored() -> None:
    assert Options.parse({"user": 5}) == Options.parse({})


def test_false_and_the_empty_text_are_not_absent() -> None:
    assert Options.parse({"flag": False}).flag is False
    assert Options.parse({"role": ""}).role == ""


@pytest.mark.parametrize("value", [8.0, 1e3])
def test_a_whole_number_may_be_written_as_a_float(value: float) -> None:
    body = Options.parse({"count": value, "dimensions": value})
    for found in (body.count, body.dimensions):
        assert type(found) is int
        assert found == value


def test_the_first_of_several_names_counts() -> None:
    def first(**body: Any) -> tuple[str, Any]:
        return Options.parse(body).first_given("count", "dimensions")

    assert first(dimensions=2) == ("dimensions", 2)
    assert first(count=None, dimensions=2) == ("dimensions", 2)
    assert first(count=1, dimensions=2) == ("count", 1)
    assert first() == ("count", None)


def test_a_choice_ignores_case() -> None:
    assert Options.parse({"choice": "BASE64"}).choice == "base64"


def test_what_is_needed_and_not_there_is_said() -> None:
    class Needs(WireRequest):
        text: str
        texts: Texts

    for body in ({"texts": ["a"]}, {"texts": ["a"], "text": None}):
        with pytest.raises(InputError, match=r"^text: received nothing; send it\.$"):
            Needs.parse(body)
    for more in ({}, {"texts": None}):
        with pytest.raises(InputError, match=r"^texts: received nothing; send it\.$"):
            Needs.parse({"text": "a", **more})


def test_one_text_is_a_list_of_one_where_that_is_allowed() -> None:
    assert named_texts(Body.parse({"input": "a"}).input, "input") == (["a"], ["input"])
    two = named_texts(Body.parse({"input": ["a", "b"]}).input, "input")
    assert two == (["a", "b"], ["input[0]", "input[1]"])
    with pytest.raises(InputError, match=r"^texts: received \"a\"; send a list of strings\.$"):
        Body.parse({"texts": "a"})


@pytest.mark.parametrize("value", [5, True, {"a": "b"}, 1.5])
def test_what_is_no_list_is_no_texts(value: object) -> None:
    with pytest.raises(InputError, match=r"^input: .*send a string or a list of strings"):
        Body.parse({"input": value})


@pytest.mark.parametrize("name", ["input", "texts"])
def test_an_empty_list_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: received no text; send at least one"):
        Body.parse({name: []})


@pytest.mark.parametrize("value", [[1, 2, 3], [[12840, 374], [5]], [0], [[-1]]])
@pytest.mark.parametrize("name", ["input", "texts"])
def test_token_ids_are_refused_with_the_setting_that_helps(name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Body.parse({name: value})
    assert caught.value.field == name
    assert caught.value.received == "token ids"
    assert caught.value.remedy == TOKEN_IDS_REMEDY
    assert "check_embedding_ctx_length=False" in TOKEN_IDS_REMEDY


@pytest.mark.parametrize("name", ["input", "texts"])
def test_as_many_texts_as_may_be_and_no_more(name: str) -> None:
    assert len(getattr(Body.parse({name: ["a"] * MAX_TEXTS}), name)) == MAX_TEXTS
    for count in (MAX_TEXTS + 1, 10_000):
        with pytest.raises(InputError, match=f"^{name}: received {count} texts; send at most 2048"):
            Body.parse({name: ["a"] * count})


def test_a_list_of_millions_is_refused_before_it_is_copied_or_looked_at() -> None:
    class Looked(str):
        def __len__(self) -> int:
            raise AssertionError("was looked at")

    million = [Looked("a")] * 2_000_000
    tracemalloc.start()
    for name in ("input", "texts"):
        with pytest.raises(InputError, match=f"^{name}: received 2000000 texts"):
            Body.parse({name: million})
    assert tracemalloc.get_traced_memory()[1] < 1_000_000  # a copy has 16 MB
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "truncate"),
    [
        ({}, True),
        ({"truncate": None}, True),
        ({"truncate": "END"}, True),
        ({"truncate": "end"}, True),
        ({"truncate": "NONE"}, False),
        ({"truncate": "none"}, False),
        ({"truncate": True}, True),
        ({"truncate": False}, False),
        ({"truncation": False}, False),
        ({"truncation": True}, True),
        ({"truncation": True, "truncate": "NONE"}, True),
        ({"truncation": None, "truncate": "NONE"}, False),
    ],
)
def test_every_way_to_say_whether_to_truncate(body: dict[str, Any], truncate: bool) -> None:
    assert TruncateOptions.parse(body).truncates is truncate


def test_a_kind_of_request_must_define_its_request() -> None:
    with pytest.raises(NotImplementedError):
        Options().service_call(RouteContext("/", ModelNames("small@0")))


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(wire, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
