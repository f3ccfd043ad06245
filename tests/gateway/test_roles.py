"""Every word that a client may have for a text's role means what this model needs."""

import doctest
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.errors import InputError
from e5.gateway import roles
from e5.gateway.roles import PromptChoice, prompt_for
from e5.prompts import DEFAULT_TASK, TASKS

DOCUMENT = PromptChoice("", "document")
QUERY = PromptChoice(DEFAULT_TASK, "query")
SYMMETRIC = PromptChoice("sts_query", "symmetric")

# The words of NVIDIA, Voyage, Cohere, Jina and text-embeddings-inference, as their clients send
# them; written out here, not read from the table under test.
WORDS: dict[str, PromptChoice] = {
    "query": QUERY,
    "search_query": QUERY,
    "retrieval.query": QUERY,
    "passage": DOCUMENT,
    "document": DOCUMENT,
    "search_document": DOCUMENT,
    "retrieval.passage": DOCUMENT,
    "retrieval_query": QUERY,
    "question_answering": QUERY,
    "fact_verification": QUERY,
    "code_retrieval_query": QUERY,
    "retrieval_document": DOCUMENT,
    "classification": SYMMETRIC,
    "clustering": SYMMETRIC,
    "text-matching": SYMMETRIC,
    "separation": SYMMETRIC,
    "semantic_similarity": SYMMETRIC,
}
FIELDS = ("input_type", "task", "prompt_name")


def test_the_table_is_whole() -> None:
    assert set(WORDS) == set(roles.SIDES_BY_ROLE)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("word", WORDS)
def test_a_word_means_the_same_in_every_field(field: str, word: str) -> None:
    assert prompt_for({field: word}) == WORDS[word]
    assert prompt_for({field: word.upper()}) == WORDS[word]
    assert prompt_for({field: f" {word} "}) == WORDS[word]


def test_nothing_is_a_bare_document() -> None:
    for nothing in (None, "", "  "):
        assert prompt_for({"input_type": nothing}) == DOCUMENT
        assert prompt_for(dict.fromkeys(FIELDS, nothing)) == DOCUMENT
    assert prompt_for({}) == DOCUMENT
    assert not DOCUMENT.prompted


def test_the_ending_of_the_models_name_is_a_role() -> None:
    assert prompt_for({}, "-query") == QUERY
    assert prompt_for({}, "-passage") == DOCUMENT
    assert prompt_for({"input_type": "search_query"}, "-query") == QUERY
    assert prompt_for({"input_type": "document"}, "-passage") == DOCUMENT


@pytest.mark.parametrize(("first", "second"), list(product(WORDS, WORDS)))
def test_two_roles_agree_or_are_refused(first: str, second: str) -> None:
    words = {"input_type": first, "prompt_name": second}
    if WORDS[first] == WORDS[second]:
        assert prompt_for(words) == WORDS[first]
    else:
        with pytest.raises(InputError) as caught:
            prompt_for(words)
        assert caught.value.field == "prompt_name"
        assert caught.value.received == f'"{second}", where input_type says "{first}"'


@pytest.mark.parametrize("suffix", ["-query", "-passage"])
@pytest.mark.parametrize("word", WORDS)
def test_a_word_agrees_with_the_models_name_or_is_refused(word: str, suffix: str) -> None:
    if WORDS[word] == prompt_for({}, suffix):
        assert prompt_for({"input_type": word}, suffix) == WORDS[word]
    else:
        with pytest.raises(InputError, match=f"^input_type: .*where model says .{suffix}"):
            prompt_for({"input_type": word}, suffix)


@pytest.mark.parametrize("name", TASKS)
def test_a_registered_task_is_itself_on_the_side_that_it_is_for(name: str) -> None:
    for field in FIELDS:
        prompt = prompt_for({field: name})
        assert prompt == PromptChoice(name, "symmetric" if TASKS[name].symmetric else "query")
        assert prompt.prompted
    side = prompt_for({"input_type": "document", "task": name}).side
    assert side == ("symmetric" if TASKS[name].symmetric else "document")
    side = prompt_for({"input_type": "query", "task": name}).side
    assert side == ("symmetric" if TASKS[name].symmetric else "query")


def test_an_instruction_is_for_queries_unless_a_role_says_otherwise() -> None:
    words = "Find recipes for these leftovers"
    for field in FIELDS:
        assert prompt_for({field: words}) == PromptChoice(words, "query")
    assert prompt_for({"task": words, "input_type": "query"}) == PromptChoice(words, "query")
    assert prompt_for({"task": words, "input_type": "passage"}) == DOCUMENT
    assert prompt_for({"task": words, "input_type": "clustering"}) == PromptChoice(
        words, "symmetric"
    )
    assert prompt_for({"task": words}, "-query") == PromptChoice(words, "query")
    assert prompt_for({"task": words}, "-passage") == DOCUMENT


def test_two_tasks_agree_or_are_refused() -> None:
    twice = {"task": "SciFact", "prompt_name": "scifact"}
    assert prompt_for(twice) == PromptChoice("SciFact", "query")
    in_words = {"task": "SciFact", "prompt_name": TASKS["SciFact"].instruction}
    assert prompt_for(in_words) == PromptChoice("SciFact", "query")
    assert prompt_for({"input_type": "web_search_query", "prompt_name": "query"}).side == "query"
    with pytest.raises(InputError, match=r'^prompt_name: received "NQ", where task says "SciFact"'):
        prompt_for({"task": "SciFact", "prompt_name": "NQ"})


@pytest.mark.parametrize("word", ["qeury", "image", "SciFcat", "*", "Instruct:", "日本語"])
def test_one_unknown_word_is_refused(word: str) -> None:
    with pytest.raises(InputError) as caught:
        prompt_for({"input_type": word})
    assert caught.value.field == "input_type"
    for known in WORDS:
        assert known in caught.value.remedy


def test_the_header_says_the_side_and_the_instruction() -> None:
    assert DOCUMENT.header == "document"
    assert PromptChoice("SciFact", "document").header == "document"
    assert QUERY.header == f'query "{DEFAULT_TASK}"'
    assert SYMMETRIC.header == 'symmetric "Retrieve semantically similar text."'
    assert len(PromptChoice("long " * 2000, "query").header) < 300


@given(st.text(min_size=1))
def test_the_header_can_be_sent_whatever_the_instruction(task: str) -> None:
    header = PromptChoice(task, "query").header
    assert header.isascii()
    assert header.isprintable()


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(roles, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
