"""Errors: one sentence each, on one line, whatever a caller sent; and data between processes."""

import json
import pickle
import sys
from typing import Any, TypeVar, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5 import errors
from e5.errors import (
    ERRORS_BY_NAME,
    MAX_RESTORED,
    Cause,
    E5Error,
    EngineError,
    FieldError,
    FileError,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
    SettingsError,
    TextError,
    TokenizerError,
    WeightsError,
    one_line,
    quoted,
    shortened,
)

AnyError = TypeVar("AnyError", bound=E5Error)

ERRORS: list[E5Error] = [
    E5Error("something is wrong; do it again."),
    FieldError("top_k", "-1", "use a whole number above 0"),
    InputError("documents[2]", "7", "send a string"),
    InputError("query, document", "neither", "send at least one query or document"),
    SettingsError("E5_DTYPE", "'half'", "use one of float16, bfloat16, float32"),
    FileError("weights/x", "there is no such folder", "download the weights"),
    WeightsError("weights/x", "there is no such weights folder", "download the weights"),
    TokenizerError("tokenizer.json", "not a readable tokenizer", "restore it"),
    TextError(None, "a text without a vector", "shorten it", position=3),
    TextError("queries[1]", "a text without a vector", "shorten it", position=3),
    NonFiniteError(0),
    NonFiniteError(2, "documents[2]"),
    OutOfMemoryError(5000),
    OutOfMemoryError(5000, 4, "query"),
    QueueFullError(10, 20, 25),
    RequestTooLargeError(30, 25),
    ServiceError("http://127.0.0.1:5000: cannot be reached; start it."),
    ServiceError("too many requests; try again.", cause="busy", retry_after=7),
    EngineError("the engine failed; its log has the reason."),
]
TEXT_ERRORS = [error for error in ERRORS if isinstance(error, TextError)]

ANY_TEXT = st.text(st.characters(), max_size=200)  # with lone surrogates and control characters
LINE_ENDS = "a\nb\rc\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\u2028j\u2029k"
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary()
VALUES = st.recursive(
    SCALARS | st.complex_numbers() | st.sets(st.integers()),
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT | st.integers(), inner),
    max_leaves=20,
)


class FailingRepr:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class LongRepr:
    """A value that is shown in many lines."""

    def __repr__(self) -> str:
        return LINE_ENDS * 20


def nested_in_itself() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


def nested_deeply() -> list[Any]:
    values: list[Any] = []
    for _ in range(100_000):
        values = [values]
    return values


def is_short_and_one_line(text: str) -> bool:
    return len(text) <= 60 and len(text.splitlines()) <= 1


def all_subclasses(base: type[E5Error]) -> set[type[E5Error]]:
    return {base}.union(*(all_subclasses(each) for each in base.__subclasses__()))


def test_every_error_of_the_module_is_tried_below() -> None:
    ours = {each for each in all_subclasses(E5Error) if each.__module__ == errors.__name__}
    assert {type(error) for error in ERRORS} == ours


class TestWhatWasReceived:
    """A value is shown as JSON, on one short line."""

    @given(value=VALUES)
    @example(value=LINE_ENDS)
    @example(value="\ud800" * 100)
    @example(value="\x00\x1b[31m\x7f\u202e")
    def test_any_value_is_one_line_of_at_most_60_characters(self, value: object) -> None:
        assert is_short_and_one_line(quoted(value))
        quoted(value).encode()  # it goes to a caller, and into a log

    @pytest.mark.parametrize(
        "value",
        [
            nested_in_itself(),
            nested_deeply(),
            {"a": nested_in_itself()},
            10**5000,  # more digits than Python writes
            FailingRepr(),
            [FailingRepr()],
            LongRepr(),
            {1: "a", None: "b", (1, 2): "c"},
            object,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_json_cannot_express_is_one_short_line_too(self, value: object) -> None:
        assert quoted(value)
        assert is_short_and_one_line(quoted(value))

    def test_what_json_cannot_express_is_shown_as_its_type(self) -> None:
        assert quoted({(1, 2): "a"}) == "<dict>"
        assert quoted([10**5000]) == "<list>"

    @pytest.mark.parametrize(
        "value", [[1] * 10**7, "x" * 10**7, [[[1] * 10**4] * 10**4] * 10**4, {"a": [1] * 10**7}]
    )
    def test_a_large_value_costs_no_more_than_a_small_one(self, value: object) -> None:
        calls = []

        def count(_frame: object, event: str, _argument: object) -> None:
            calls.append(event)

        sys.setprofile(count)
        try:
            assert quoted(value).endswith("...")
        finally:
            sys.setprofile(None)
        assert len(calls) < 5000

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (None, "null"),
            (True, "true"),
            (5, "5"),
            ("snow", '"snow"'),
            (["a", 5], '["a", 5]'),
            ({"a": None}, '{"a": null}'),
            ("a\nb", r'"a\nb"'),
            ("\N{SNOWMAN}", r'"\u2603"'),
            (b"snow", "\"b'snow'\""),
        ],
    )
    def test_it_is_the_json_that_the_caller_wrote(self, value: object, shown: str) -> None:
        assert quoted(value) == shown

    @given(text=ANY_TEXT)
    @example(text=LINE_ENDS)
    @example(text="x" * 61)
    def test_any_text_is_shortened_to_one_line_of_at_most_60_characters(self, text: str) -> None:
        assert is_short_and_one_line(shortened(text))

    @pytest.mark.parametrize("text", ["snow", "x" * 60, '""'])
    def test_a_short_line_stays_as_it_is(self, text: str) -> None:
        assert shortened(text) == text

    @pytest.mark.parametrize("text", ["", " ", "\r\n"])
    def test_a_blank_line_is_seen_to_be_one(self, text: str) -> None:
        assert shortened(text) == '""'

    @pytest.mark.parametrize("num_characters", [61, 62, 1000])
    def test_a_long_line_ends_in_dots(self, num_characters: int) -> None:
        assert shortened("x" * num_characters) == "x" * 57 + "..."


# Parts that a reader of sentences would take for its punctuation, and any other text.
AWKWARD_PARTS = ["; ", '"', "'", " received ", ": ", ".", ",", "\\", "{", "é", "\N{SNOWMAN}", "文"]
PARTS = st.lists(st.sampled_from(AWKWARD_PARTS) | ANY_TEXT, max_size=6).map("".join)
POSITIONS = st.integers(0, 10**9)


def errors_of(kind: type[E5Error]) -> st.SearchStrategy[E5Error]:
    """Errors of a class with any parts that its constructor takes."""
    if kind is NonFiniteError:
        return st.builds(NonFiniteError, POSITIONS, st.none() | PARTS)
    if kind is OutOfMemoryError:
        return st.builds(OutOfMemoryError, POSITIONS, POSITIONS, st.none() | PARTS)
    if kind is TextError:
        return st.builds(TextError, st.none() | PARTS, PARTS, PARTS, position=POSITIONS)
    if kind is QueueFullError:
        return st.builds(QueueFullError, POSITIONS, POSITIONS, POSITIONS)
    if kind is RequestTooLargeError:
        return st.builds(RequestTooLargeError, POSITIONS, POSITIONS)
    if kind is ServiceError:
        causes: st.SearchStrategy[Cause] = st.sampled_from(get_args(Cause))
        seconds = st.none() | st.integers(0, 10**9) | st.floats(0, 1e9)
        return st.builds(ServiceError, PARTS, cause=causes, retry_after=seconds)
    if issubclass(kind, FieldError):
        return st.builds(kind, PARTS, PARTS, PARTS)
    return st.builds(kind, PARTS)


ANY_ERROR = st.sampled_from(sorted(ERRORS_BY_NAME)).flatmap(
    lambda name: errors_of(ERRORS_BY_NAME[name])
)


def through_json(error: AnyError) -> AnyError:
    """The error as the next process gets it."""
    restored = E5Error.from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(restored) is type(error)
    return restored


class TestSentence:
    """What people read."""

    @pytest.mark.parametrize("error", ERRORS, ids=str)
    def test_it_is_one_sentence(self, error: E5Error) -> None:
        assert str(error).endswith(".")
        assert len(str(error).splitlines()) == 1

    @given(error=ANY_ERROR)
    @example(error=InputError("a\nb", LINE_ENDS, "\x1b[2J\ud800"))
    @example(error=EngineError(LINE_ENDS))
    def test_it_is_one_printable_line_whatever_the_parts_hold(self, error: E5Error) -> None:
        assert str(error).isprintable()
        str(error).encode()
        assert error.args == (error.message,) == (str(error),)

    @given(field=PARTS, received=PARTS, remedy=PARTS)
    def test_it_is_made_of_the_parts(self, field: str, received: str, remedy: str) -> None:
        field_error, file_error = (
            kind(field, received, remedy) for kind in (InputError, WeightsError)
        )
        assert str(field_error) == one_line(f"{field}: received {received}; {remedy}.")
        assert str(file_error) == one_line(f"{field}: {received}; {remedy}.")


class TestBetweenProcesses:
    """An error is the same error in the next process: its class, its parts and its sentence."""

    @given(error=ANY_ERROR)
    @example(error=InputError("a: received b; c.", '"; send', "x; y: received z."))
    def test_it_survives_json(self, error: E5Error) -> None:
        restored = through_json(error)
        assert vars(restored) == vars(error)
        assert str(restored) == str(error)

    @given(error=ANY_ERROR)
    def test_it_survives_pickle(self, error: E5Error) -> None:
        restored = pickle.loads(pickle.dumps(error))
        assert type(restored) is type(error)
        assert vars(restored) == vars(error)
        assert str(restored) == str(error)

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_its_dictionary_has_its_class_and_its_parts_and_nothing_else(
        self, error: E5Error
    ) -> None:
        data = error.to_dict()
        assert data.pop("type") == type(error).__name__
        assert data == {part: getattr(error, part) for part in error.parts}

    def test_a_long_text_ends_after_the_limit(self) -> None:
        restored = through_json(InputError("x" * 10_000, "7", "send a string"))
        assert restored.field == "x" * MAX_RESTORED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)
ALL_PARTS = sorted({part for kind in ERRORS_BY_NAME.values() for part in kind.parts})


class TestUntrustedData:
    """Another process may send anything: it is an error of one line, or None."""

    @given(data=JSON_VALUES)
    def test_any_json_gives_none_or_an_error(self, data: object) -> None:
        self.check(data)

    @given(
        kind=st.sampled_from(sorted(ERRORS_BY_NAME)) | JSON_VALUES,
        parts=st.dictionaries(
            st.sampled_from(ALL_PARTS),
            JSON_VALUES | POSITIONS | st.sampled_from(get_args(Cause)),
        ),
    )
    @example(kind=["InputError"], parts={})
    @example(kind={"a": 1}, parts={})
    def test_so_do_dictionaries_that_look_like_errors(
        self, kind: object, parts: dict[str, object]
    ) -> None:
        self.check({"type": kind} | parts)

    @given(error=ANY_ERROR, value=JSON_VALUES, choice=st.integers(0, 5))
    def test_so_do_errors_with_one_part_changed(
        self, error: E5Error, value: object, choice: int
    ) -> None:
        part = error.parts[choice % len(error.parts)]
        self.check(error.to_dict() | {part: value})

    def check(self, data: object) -> None:
        error = E5Error.from_dict(data)
        if error is None:
            return
        assert isinstance(data, dict)
        assert type(error).__name__ == data["type"]
        assert str(error).isprintable()
        assert all(
            len(getattr(error, part) or "") <= MAX_RESTORED
            for part in error.parts
            if isinstance(getattr(error, part), str)
        )
        assert vars(through_json(error)) == vars(error)

    @pytest.mark.parametrize(
        "changes",
        [
            {"type": "Exception"},
            {"type": None},
            {"position": -1},
            {"position": True},
            {"position": 1.0},
            {"received": None},
            {"remedy": ["shorten it"]},
        ],
        ids=str,
    )
    def test_a_part_of_another_type_is_refused(self, changes: dict[str, object]) -> None:
        data = NonFiniteError(2).to_dict()
        assert E5Error.from_dict(data) is not None
        assert E5Error.from_dict(data | changes) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"cause": "bored"},
            {"cause": ["busy"]},
            {"retry_after": float("nan")},
            {"retry_after": float("inf")},
            {"retry_after": -1},
            {"retry_after": 10**400},
            {"retry_after": "7"},
            {"retry_after": False},
        ],
        ids=lambda changes: str(changes)[:40],
    )
    def test_a_cause_or_a_pause_that_cannot_be_is_refused(self, changes: dict[str, object]) -> None:
        data = ServiceError("busy.", cause="busy", retry_after=7).to_dict()
        assert E5Error.from_dict(data) is not None
        assert E5Error.from_dict(data | changes) is None

    def test_a_missing_part_is_refused(self) -> None:
        for error in ERRORS:
            for part in set(error.parts) - {"retry_after"}:
                data = error.to_dict()
                del data[part]
                assert E5Error.from_dict(data) is None


class TestRenamed:
    """The same error with the caller's name of the field."""

    @given(error=ANY_ERROR, name=PARTS)
    def test_only_the_field_changes(self, error: E5Error, name: str) -> None:
        before = error.to_dict()
        renamed = error.renamed({before.get("field", "message"): name, "another": "x"})
        assert renamed is not error
        assert type(renamed) is type(error)
        expected = before | {"field": one_line(name)} if "field" in before else before
        assert renamed.to_dict() == expected
        assert error.to_dict() == before

    @given(error=ANY_ERROR)
    def test_without_a_name_for_its_field_it_stays_the_same(self, error: E5Error) -> None:
        assert vars(error.renamed({})) == vars(error)


class TestAt:
    """The same error, of a text that the next caller calls otherwise."""

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_it_moves_to_another_position_and_name(self, error: TextError) -> None:
        moved = error.at(7, "queries[7]")
        assert type(moved) is type(error)
        assert moved.to_dict() == error.to_dict() | {"position": 7, "field": "queries[7]"}

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_without_a_name_it_is_called_by_its_position(self, error: TextError) -> None:
        assert str(error.at(7)) == f"text 7: received {error.received}; {error.remedy}."

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_what_came_from_another_process_moves_too(self, error: TextError) -> None:
        assert vars(through_json(error).at(7, "queries[7]")) == vars(error.at(7, "queries[7]"))

    def test_the_error_itself_stays(self) -> None:
        error = NonFiniteError(2, "documents[2]")
        before = error.to_dict()
        error.at(7, "queries[7]")
        assert error.to_dict() == before
