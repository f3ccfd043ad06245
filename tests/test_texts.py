"""One rule says what can be embedded, and each refusal names its text and the remedy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5.errors import InputError
from e5.texts import (
    MAX_CHARACTERS,
    MAX_TASK,
    check_flag,
    check_task,
    check_text,
    check_texts,
    check_unicode,
)

# Blank and half-encoded ones among them, which plain random text seldom is.
ANY_TEXT = st.text(st.characters()) | st.text(" \t\n\u00a0\u2003\u200b\ud83d\udcffa", max_size=4)
NO_STRINGS: list[Any] = [None, 7, 1.5, True, b"snow", ["snow"], {"a": "b"}, object]


def is_embeddable(text: str) -> bool:
    """The rule again, character by character, of a text that is short enough."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return False
    return any(not character.isspace() for character in text)


class TestText:
    """A string, valid Unicode, not blank, not too long."""

    @given(text=ANY_TEXT)
    @example(text="")
    @example(text="\u200b")  # zero width, and no space in Unicode's sense
    @example(text="\x00")
    @example(text="snow\ud83d")
    @example(text="\ud83d\ude42")  # a pair of surrogates is no emoji in Python
    def test_exactly_what_can_be_embedded_is_accepted(self, text: str) -> None:
        if is_embeddable(text):
            assert check_text(text, "query") is text
        else:
            with pytest.raises(InputError, match=r"^query: received ") as caught:
                check_text(text, "query")
            assert caught.value.field == "query"

    @pytest.mark.parametrize("value", NO_STRINGS, ids=repr)
    def test_what_is_no_string_is_refused(self, value: object) -> None:
        with pytest.raises(InputError, match=r"^documents\[3\]: received .*; send a string\.$"):
            check_text(value, "documents[3]")

    @pytest.mark.parametrize("blank", ["", " ", "\n\t\r", "\u3000\u00a0"])
    def test_a_blank_text_is_refused(self, blank: str) -> None:
        message = r"^query: received blank text; send text, or leave it out\.$"
        with pytest.raises(InputError, match=message):
            check_text(blank, "query")

    @pytest.mark.parametrize("position", [0, 5])
    @pytest.mark.parametrize("surrogate", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
    def test_a_lone_surrogate_is_refused_with_its_position(
        self, surrogate: int, position: int
    ) -> None:
        with pytest.raises(
            InputError, match=rf"lone surrogate \(character {position}\); send valid"
        ):
            check_text("x" * position + chr(surrogate) + "snow", "query")

    def test_a_text_may_have_a_million_characters_and_no_more(self) -> None:
        assert MAX_CHARACTERS == 1_000_000
        check_text("\N{GRINNING FACE}" * MAX_CHARACTERS, "query")  # characters, not bytes
        with pytest.raises(InputError, match="received 1000001 characters; send at most 1000000"):
            check_text("x" * (MAX_CHARACTERS + 1), "query")

    def test_it_comes_back_as_it_was(self) -> None:
        assert check_text("  snow\r\n\x00e\u0301 ", "query") == "  snow\r\n\x00e\u0301 "


class TestTask:
    """An instruction, a name, or none."""

    @pytest.mark.parametrize("task", ["", " ", "sts_query", "Find twins.\n", "x" * MAX_TASK])
    def test_any_words_and_none_are_accepted(self, task: str) -> None:
        assert check_task(task) is task

    @pytest.mark.parametrize("value", NO_STRINGS, ids=repr)
    def test_what_is_no_string_is_refused(self, value: object) -> None:
        with pytest.raises(InputError, match=r"^task: received .*; send a string\.$"):
            check_task(value)

    def test_a_lone_surrogate_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"^instruction: received a lone surrogate"):
            check_task("Find \ud800", "instruction")

    def test_it_may_have_ten_thousand_characters_and_no_more(self) -> None:
        assert MAX_TASK == 10_000
        with pytest.raises(InputError, match="received 10001 characters; send at most 10000"):
            check_task("x" * (MAX_TASK + 1))


class TestTexts:
    """One text or many become a list, and each text has a name of its own."""

    @given(texts=st.lists(st.text(min_size=1).filter(is_embeddable)))
    def test_texts_stay_in_order_and_are_named_by_their_place(self, texts: list[str]) -> None:
        before = list(texts)
        checked, fields = check_texts(texts, "documents")
        assert checked == texts == before
        assert fields == [f"documents[{i}]" for i in range(len(texts))]

    @given(texts=st.lists(ANY_TEXT | st.sampled_from(NO_STRINGS), min_size=1))
    def test_the_first_that_cannot_be_embedded_is_named(self, texts: list[Any]) -> None:
        wrong = [i for i, t in enumerate(texts) if not isinstance(t, str) or not is_embeddable(t)]
        if not wrong:
            assert check_texts(texts, "queries")[0] == texts
            return
        with pytest.raises(InputError) as caught:
            check_texts(texts, "queries")
        assert caught.value.field == f"queries[{wrong[0]}]"

    def test_one_string_is_a_list_of_one(self) -> None:
        assert check_texts("snow", "queries") == (["snow"], ["queries[0]"])

    def test_a_tuple_is_a_list_too(self) -> None:
        assert check_texts(("snow", "rain"), "queries")[0] == ["snow", "rain"]

    def test_no_texts_are_fine(self) -> None:
        assert check_texts([], "queries") == ([], [])

    @pytest.mark.parametrize("value", [None, 7, b"snow", {"a": "b"}, object])
    def test_what_is_neither_a_string_nor_a_list_is_refused(self, value: object) -> None:
        message = r"^queries: received .*; send a string or a list of strings\.$"
        with pytest.raises(InputError, match=message):
            check_texts(value, "queries")


@given(text=ANY_TEXT)
@example(text="\ud800")
def test_unicode_is_what_can_be_encoded(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        with pytest.raises(InputError, match=r"^id: received a lone surrogate"):
            check_unicode(text, "id")
    else:
        assert check_unicode(text, "id") is text  # blank ones too


@pytest.mark.parametrize("texts", [{"a", "b"}, frozenset({"a"}), set()])
def test_a_set_has_no_order_and_is_refused(texts: Any) -> None:
    with pytest.raises(InputError, match=r"^queries: received a set, which has no order; send a"):
        check_texts(texts, "queries")


@pytest.mark.parametrize("flag", [True, False, np.True_, np.False_])
def test_a_flag_is_true_or_false(flag: Any) -> None:
    assert check_flag(flag, "normalize") is bool(flag)


@pytest.mark.parametrize("flag", ["no", "", 1, 0, None, {"a": 1}, ["x"], 1.0, object()])
def test_nothing_else_is_a_flag(flag: Any) -> None:
    with pytest.raises(InputError, match=r"^truncate: received .*; send true or false\.$"):
        check_flag(flag, "truncate")
