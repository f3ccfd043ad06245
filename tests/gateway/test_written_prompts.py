"""A prompt that a client wrote into its text is read as the client meant it, and never doubled."""

import doctest
from typing import Any

import numpy as np
import pytest
from gateway_tools import LocalGateway
from hypothesis import given
from hypothesis import strategies as st

from e5.embedder import Embedder
from e5.gateway import written_prompts
from e5.gateway.written_prompts import begins_like_prompt, find_prompts, written_prompt

TASK = "Given a web search query, retrieve relevant passages that answer the query"
QUERY = "what is snow: query: 雪\nor\\n  ice? "
RIGHT = f"Instruct: {TASK}\nQuery: {QUERY}"
# What becomes of the prompt on the way: how the client joins its parts, what replaces the line
# break, what a file or a terminal makes of it, and models whose prompt looks nearly like it.
FORMS = {
    "as it is": "Instruct: {task}\nQuery: {query}",
    "no blank before the query": "Instruct: {task}\nQuery:{query}",  # Qwen3's prompt
    "no blank before the task": "Instruct:{task}\nQuery: {query}",
    "no blank at all": "Instruct:{task}\nQuery:{query}",
    "two blanks before the task": "Instruct:  {task}\nQuery: {query}",
    "a blank at the end of the line": "Instruct: {task} \nQuery: {query}",
    "an indented second line": "Instruct: {task}\n    Query: {query}",
    "two blanks before the query and none before the task": "Instruct:{task}\nQuery:  {query}",
    "a blank for the line break": "Instruct: {task} Query: {query}",
    "two blanks for the line break": "Instruct: {task}  Query:{query}",
    "a tab for the line break": "Instruct: {task}\tQuery: {query}",
    "a blank that does not break": "Instruct: {task}\u00a0Query: {query}",
    "many blanks for the line break": "Instruct: {task}" + " " * 500 + "Query: {query}",
    "no line break at all": "Instruct: {task}Query: {query}",
    "a literal line break": "Instruct: {task}\\nQuery: {query}",
    "a literal one, escaped twice": "Instruct: {task}\\\\nQuery: {query}",
    "a literal one of Windows": "Instruct: {task}\\r\\nQuery: {query}",
    "a literal one and a blank": "Instruct: {task}\\n Query: {query}",
    "Windows' line break": "Instruct: {task}\r\nQuery: {query}",
    "an old Mac's": "Instruct: {task}\rQuery: {query}",
    "two line breaks": "Instruct: {task}\n\nQuery: {query}",
    "a line separator": "Instruct: {task}\u2028Query: {query}",
    "line breaks everywhere": "\nInstruct:\n{task}\nQuery:\n{query}",
    "a line break first": "\nInstruct: {task}\nQuery: {query}",
    "a literal one first": "\\nInstruct: {task}\nQuery: {query}",
    "blanks first": "  Instruct: {task}\nQuery: {query}",
    "a byte-order mark first": "\ufeffInstruct: {task}\nQuery: {query}",
    "blanks before the colons": "Instruct : {task}\nQuery : {query}",
    "wide colons": "Instruct：{task}\nQuery：{query}",
    "lower case": "instruct: {task}\nquery: {query}",
    "lower case and a blank": "instruct: {task} query: {query}",
    "upper case": "INSTRUCT: {task}\nQUERY: {query}",
    "upper case and a blank": "INSTRUCT: {task} QUERY: {query}",
    "mixed case": "Instruct: {task}\nquery: {query}",
}
UNLIKE = [  # each begins like a prompt, and where its query begins is not certain
    "Instruct: Find twins",
    "Instruct:",
    "instruct: a verb",
    "Instruct: Find twins\nsnow",
    "Instruct: Find twins\nQuery",
    "Instruct: Find twins\nQuery:",
    " Instruct: Find twins\nQuery: \n ",
    "Instruct:\nQuery: snow",
    "Instruct: Given a query: find its answer",
    "Instruct: Find subqueries of subquery: snow",
    "Instruct: " + "x" * 1000 + " Query: snow",
]
OTHERS = ["", "snow", "Instruct me: \nQuery: snow", "snow\nInstruct: Find twins\nQuery: snow"]
OTHERS += [
    "Instructions: stir\nQuery: snow",
    "Query: snow",
    "query: snow",
    '"Instruct: a\nQuery: b"',
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_the_client_meant_it(form: str) -> None:
    text = FORMS[form].format(task=TASK, query=QUERY)
    assert begins_like_prompt(text)
    assert written_prompt(text) == RIGHT


@pytest.mark.parametrize("text", [RIGHT, f"Instruct: {TASK}\nQuery:  two blanks", "\n"])
def test_the_right_form_stays_as_it_is(text: str) -> None:
    if begins_like_prompt(text):
        assert written_prompt(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "Instruct: Find twins\nQuery: ",
        "Instruct: a\nb\nQuery: c",
        "Instruct: Write the Query: again\nQuery: c",
        "Instruct: a\nQuery: b\nQuery: c",
        "Instruct: " + "long " * 1000 + "task\nQuery: c",
    ],
)
def test_no_other_text_of_the_right_form_is_touched(text: str) -> None:
    assert written_prompt(text) == text


@pytest.mark.parametrize("text", UNLIKE)
def test_what_is_not_certain_is_no_prompt(text: str) -> None:
    assert begins_like_prompt(text)
    assert written_prompt(text) is None


@pytest.mark.parametrize("text", OTHERS)
def test_what_does_not_begin_like_a_prompt_is_none(text: str) -> None:
    assert not begins_like_prompt(text)
    assert written_prompt(text) is None


def test_the_query_may_hold_the_words_itself() -> None:
    for query in ("Query: x", "what does Query: mean", "a\nQuery: b", "Instruct: a\nQuery: b"):
        right = f"Instruct: Find twins\nQuery: {query}"
        assert written_prompt(right) is right
        assert written_prompt(f"\nInstruct: Find twins\nQuery:{query}") == right
    assert written_prompt("Instruct: a Query: b Query: c") == "Instruct: a\nQuery: b Query: c"
    # A line's beginning is more certain than a word within a line.
    assert written_prompt("Instruct: a Query: b\nQuery:c") == "Instruct: a Query: b\nQuery: c"


@given(st.text(), st.text())
def test_the_template_s_own_prompts_are_never_touched(task: str, query: str) -> None:
    """Whatever task and query a client puts into the template, if the task has no white edges."""
    task = task.strip() or "a"
    text = f"Instruct: {task}\nQuery: {query}"
    assert written_prompt(text) == text


@given(st.text(alphabet=" \n\\nrInstructQuery:x\ufeff", max_size=80))
def test_what_is_repaired_is_right_and_stays_so(text: str) -> None:
    repaired = written_prompt(f"Instruct:{text}")
    assert repaired is None or repaired.startswith("Instruct: ")
    assert repaired is None or "\nQuery: " in repaired
    assert repaired is None or find_prompts([repaired], [0]).own == [0]


@pytest.mark.parametrize("piece", [" ", "\n", "\\", "\\n", "Query: ", "query ", "Instruct: "])
def test_a_long_text_of_one_piece_is_looked_at_only_at_its_beginning(piece: str) -> None:
    """The time of a quadratic look would be hours."""
    text = piece * (1_000_000 // len(piece))
    for whole in (
        text,
        f"Instruct: {text}",
        f"Instruct: a{text}Query:x",
        f"Instruct: a Query:{text}",
    ):
        begins_like_prompt(whole)
        written_prompt(whole)


def test_texts_that_are_no_strings_are_left_to_the_checks() -> None:
    texts: list[Any] = [None, 5, ["Instruct: a\nQuery: b"], RIGHT]
    found = find_prompts(texts, range(4))
    assert found.texts == texts
    assert (found.own, found.repaired, found.unlike) == ([3], [], [])


def test_documents_stay_as_they_are_and_those_that_look_like_prompts_are_named() -> None:
    texts = [RIGHT, f" {RIGHT}", "Instruct: a", "snow"]
    found = find_prompts(texts, [])
    assert found.texts == texts
    assert found.header("document", "abcd") == "document, begins like a prompt: b and 1 more"
    assert find_prompts([RIGHT], []).header("document", "a") == "document"


def test_the_header_says_what_was_done() -> None:
    def header(*texts: str) -> str:
        found = find_prompts(texts, range(len(texts)))
        others = "query" if len(found.own) + len(found.unlike) < len(texts) else ""
        return found.header(others, [f"input[{i}]" for i in range(len(texts))])

    assert header("snow") == "query"
    assert header(RIGHT, RIGHT) == "own"
    assert header(f" {RIGHT}") == "own, repaired: input[0]"
    assert header(RIGHT, f" {RIGHT}", f"\n{RIGHT}") == "own, repaired: input[1] and 1 more"
    assert header("snow", RIGHT) == "query, own 1/2"
    assert header("Instruct: a") == "document, begins like a prompt: input[0]"
    assert header("snow", "Instruct: a", f" {RIGHT}", "Instruct: b") == (
        "query, own 1/4, repaired: input[2], begins like a prompt: input[1] and 1 more"
    )


def vectors_of(local: LocalGateway, body: dict[str, Any]) -> tuple[Any, str]:
    answer = local.post("/v1/embeddings", body)
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]]), answer.headers[
        "x-e5-prompt"
    ]


@pytest.mark.parametrize("role", [{"model": "small-query"}, {"input_type": "query"}])
def test_each_form_has_the_vector_of_the_query(
    role: dict[str, str], local: LocalGateway, embedder: Embedder
) -> None:
    texts = [form.format(task="Find twins", query=QUERY) for form in FORMS.values()]
    found, header = vectors_of(local, {**role, "input": ["snow", *texts, "Instruct: Find twins"]})
    right = embedder.encode_query([QUERY], task="Find twins", normalize=True)
    assert (found[1:-1] @ right[0]).min() >= 0.999999
    snow = embedder.encode_query(["snow"], normalize=True)[0]
    assert found[0] @ snow >= 0.999999
    bare = embedder.encode_document(["Instruct: Find twins"], normalize=True)[0]
    assert found[-1] @ bare >= 0.999999
    own, last = f"own {len(texts)}/{len(texts) + 2}", f"input[{len(texts) + 1}]"
    assert header.endswith(
        f", {own}, repaired: input[2] and {len(texts) - 2} more, begins like a prompt: {last}"
    )


@pytest.mark.parametrize("role", [{}, {"model": "small-passage"}, {"input_type": "passage"}])
def test_documents_are_embedded_as_they_come(
    role: dict[str, str], local: LocalGateway, embedder: Embedder
) -> None:
    texts = [form.format(task="Find twins", query=QUERY) for form in FORMS.values()]
    found, header = vectors_of(local, {**role, "input": texts})
    right = embedder.encode_document(texts, normalize=True)
    assert (found * right).sum(axis=1).min() >= 0.999999
    assert header.startswith("document, begins like a prompt: input[1] and ")


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(written_prompts, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
