"""A model has its own names, those with a role at their end, and the operator's."""

import doctest

import pytest

from e5.errors import InputError
from e5.gateway import model_names as models
from e5.gateway.model_names import ModelNames
from e5.gateway.refusals import RefusalError

SERVED = "e5-mini@9bb9c967f643"


def test_a_model_has_a_name_for_each_role() -> None:
    mini = ModelNames(SERVED)
    assert mini.names == ["e5-mini", "e5-mini-query", "e5-mini-passage"]
    assert mini.resolve("e5-mini") == ("e5-mini", "")
    assert mini.resolve("e5-mini-query") == ("e5-mini-query", "-query")
    assert mini.resolve("e5-mini-passage") == ("e5-mini-passage", "-passage")


def test_no_name_is_the_model() -> None:
    assert ModelNames(SERVED).resolve(None) == ("e5-mini", "")


def test_a_name_with_its_fingerprint_is_known_but_not_listed() -> None:
    assert ModelNames(SERVED).resolve(SERVED) == (SERVED, "")
    assert SERVED not in ModelNames(SERVED).names


def test_the_hubs_name_is_known() -> None:
    big = ModelNames("e5-mistral-7b-instruct@0123456789ab", {})
    for name in ("e5-mistral-7b-instruct", "intfloat/e5-mistral-7b-instruct"):
        assert big.resolve(name) == (name, "")
        assert big.resolve(f"{name}-query") == (f"{name}-query", "-query")
        assert {name, f"{name}-query", f"{name}-passage"} <= set(big.names)


def test_any_owner_may_stand_before_a_name_where_a_client_wants_one() -> None:
    mini = ModelNames(SERVED, {"you/mine": "e5-mini-query"})
    assert mini.resolve("you/e5-mini", any_owner=True) == ("you/e5-mini", "")
    assert mini.resolve("you/mine", any_owner=True) == ("you/mine", "-query")
    for name, any_owner in (("you/e5-mini", False), ("you/e5-maxi", True), ("them/mine", True)):
        with pytest.raises(RefusalError, match=f'^model: received "{name}"; send one of '):
            mini.resolve(name, any_owner=any_owner)


def test_the_fingerprint_of_another_model_is_refused() -> None:
    mini = ModelNames(SERVED)
    for version in ("9bb9c967f643", "", "1.0", 64 * "a"):
        mini.check_fingerprint(version)
    with pytest.raises(RefusalError, match="send 9bb9c967f643, or leave it out"):
        mini.check_fingerprint("0123456789ab")


def test_an_alias_stands_for_a_name_and_its_role() -> None:
    aliases = {"text-embedding-3-small": "e5-mini", "embed-english-v3.0": "e5-mini-query"}
    mini = ModelNames(SERVED, aliases)
    assert mini.resolve("text-embedding-3-small") == ("text-embedding-3-small", "")
    assert mini.resolve("embed-english-v3.0") == ("embed-english-v3.0", "-query")
    assert mini.names[-2:] == list(aliases)


def test_an_alias_of_nothing_is_refused_at_the_start() -> None:
    sentence = "^aliases: received small=e5-maxi; write NAME=MODEL, where MODEL is one of e5-mini, "
    with pytest.raises(InputError, match=sentence):
        ModelNames(SERVED, {"small": "e5-maxi"})


@pytest.mark.parametrize("name", ["", "gpt-4", "E5-MINI", "e5-mini-document", "e5-mini@0000"])
def test_a_name_that_is_not_served_is_404_with_those_that_are(name: str) -> None:
    mini = ModelNames(SERVED, {"text-embedding-3-small": "e5-mini"})
    with pytest.raises(RefusalError) as caught:
        mini.resolve(name)
    assert caught.value.status == 404
    assert str(caught.value).startswith(f'model: received "{name}"; send one of e5-mini, ')
    for served in mini.names:
        assert served in str(caught.value)


def test_a_name_that_is_not_served_is_shown_in_part_and_on_one_line() -> None:
    with pytest.raises(RefusalError) as caught:
        ModelNames(SERVED).resolve("a\nb\x1b[31m" + "x" * 10_000)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(models, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
