"""Errors: one sentence each, on one line, whatever a caller sent; and read back from that line."""

import pickle
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5 import errors
from e5.errors import (
    E5Error,
    EngineError,
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
    quoted,
    shortened,
)

ERRORS: list[E5Error] = [
    E5Error("something is wrong; do it again."),
    InputError("documents[2]", "7", "send a string"),
    InputError("query, document", "neither", "send at least one query or document"),
    SettingsError("E5_DTYPE: received 'half'; use one of float16, bfloat16, float32."),
    WeightsError("weights/x: there is no such weights folder; download it."),
    TokenizerError("tokenizer.json: not a readable tokenizer; restore it."),
    TextError("no vector of it can be had; shorten it.", 3),
    TextError("no vector of it can be had; shorten it.", 3, "queries[1]"),
    NonFiniteError(0),
    NonFiniteError(2, "documents[2]"),
    OutOfMemoryError(5000),
    OutOfMemoryError(5000, 4, "query"),
    QueueFullError(10, 20, 25),
    RequestTooLargeError(30, 25),
    ServiceError("http://127.0.0.1:5000: cannot be reached; start it."),
    ServiceError("too much at a time; try again.", cause="busy", retry_after=7),
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


class Unspeakable:
    """A value that has no words for itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


class Wordy:
    """A value that has too many."""

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
    """A value in words: JSON, one short line."""

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
            Unspeakable(),
            [Unspeakable()],
            Wordy(),
            {1: "a", None: "b", (1, 2): "c"},
            object,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_json_cannot_say_is_one_short_line_too(self, value: object) -> None:
        assert quoted(value)
        assert is_short_and_one_line(quoted(value))

    def test_what_json_cannot_say_is_told_by_its_type(self) -> None:
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
        ("value", "words"),
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
    def test_it_is_the_json_that_the_caller_wrote(self, value: object, words: str) -> None:
        assert quoted(value) == words

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


class TestFromSentence:
    """What another process put into words is the same error here."""

    @pytest.mark.parametrize("error", ERRORS, ids=str)
    def test_every_error_is_one_sentence(self, error: E5Error) -> None:
        assert str(error).endswith(".")
        assert len(str(error).splitlines()) == 1

    @pytest.mark.parametrize("error", ERRORS, ids=str)
    def test_every_error_is_read_back(self, error: E5Error) -> None:
        again = type(error).from_sentence(str(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert isinstance(again, E5Error)

    @pytest.mark.parametrize("error", ERRORS, ids=str)
    @given(sentence=ANY_TEXT)
    @example(sentence="")
    @example(sentence=": received ; .")
    def test_any_other_sentence_is_kept_as_it_is(self, error: E5Error, sentence: str) -> None:
        assert str(type(error).from_sentence(sentence)) == sentence

    @given(
        field=st.sampled_from(["query", "documents[2]", "query, document", "queries, documents"]),
        value=VALUES,
        remedy=st.sampled_from(["send a string", "use 1 to 192", "send text, or leave it out"]),
    )
    @example(field="query", value="a; b", remedy="send a string")
    @example(field="query", value=["a: received 7; send 8."], remedy="send a string")
    def test_the_parts_of_an_input_error_are_read_back(
        self, field: str, value: object, remedy: str
    ) -> None:
        error = InputError(field, quoted(value), remedy)
        again = InputError.from_sentence(str(error))
        assert (again.field, again.received, again.remedy) == (field, quoted(value), remedy)

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_the_position_is_not_known(self, error: TextError) -> None:
        """A sentence names the text in the words of another caller."""
        assert type(error).from_sentence(str(error)).position == 0


class TestAbout:
    """The same error, of a text that the next caller calls otherwise."""

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_it_moves_to_another_position_and_name(self, error: TextError) -> None:
        moved = error.about(7, "queries[7]")
        assert type(moved) is type(error)
        assert moved.position == 7
        assert moved.reason == error.reason
        assert str(moved) == f"queries[7]: {error.reason}"
        assert str(moved).endswith(".")

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_without_a_name_it_is_called_by_its_position(self, error: TextError) -> None:
        assert str(error.about(7)) == f"text 7: {error.reason}"

    @pytest.mark.parametrize("error", TEXT_ERRORS, ids=str)
    def test_what_came_from_another_process_moves_too(self, error: TextError) -> None:
        again = type(error).from_sentence(str(error))
        assert again.reason == error.reason
        assert str(again.about(7, "queries[7]")) == f"queries[7]: {error.reason}"

    def test_the_error_itself_stays(self) -> None:
        error = NonFiniteError(2, "documents[2]")
        before = str(error)
        error.about(7, "queries[7]")
        assert (str(error), error.position) == (before, 2)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_goes_from_process_to_process_whole(error: E5Error) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
