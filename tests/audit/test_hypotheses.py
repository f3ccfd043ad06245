"""Hypotheses have stable names, exclude each other within a group, and change what they say."""

import pytest

from e5.audit.hypotheses import (
    HYPOTHESES,
    OTHER_INSTRUCTIONS,
    PADDING,
    RIGHT,
    Combination,
    Computation,
    Hypothesis,
    PromptRules,
    combine,
    computations,
    instead,
    label,
    without,
)
from e5.audit.sample import TextRole
from e5.prompts import E5_PROMPTS, TASKS, Prompts, document_prompt, query_prompt

RULES = PromptRules(E5_PROMPTS, "web_search_query")
TEXT = " What is\nSnow? "
PROMPT = query_prompt("web_search_query", "")


def by_label(wanted: str) -> Hypothesis:
    return next(
        each for each in [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS] if each.label == wanted
    )


def combination(*labels: str) -> Combination:
    found = RIGHT
    for each in labels:
        found = combine(found, by_label(each)) or pytest.fail(each)
    return found


def test_their_names_are_stable() -> None:
    names = [each.name for each in [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS]]
    assert list(dict.fromkeys(names)) == [
        *("no_eos", "no_bos", "no_bos_no_eos", "double_bos", "double_eos"),
        *("special_tokens_parsed", "no_leading_space"),
        *("no_instruction", "instruction_on_document", "double_instruction"),
        *("no_blank_after_query", "e5_prefix"),
        *("newlines_replaced", "stripped", "lowercased", "truncated", "truncated_left"),
        *("first_token", "mean", "mean_with_instruction_masked", "before_norm"),
        *("bidirectional", "adapter_missing", "padding_read", "other_instruction"),
    ]


def test_those_of_one_group_exclude_each_other() -> None:
    no_eos = combination("no_eos")
    assert combine(no_eos, by_label("double_bos")) is None
    assert label(combine(combination("truncated 512"), by_label("no_eos")) or ()) == (
        "no_eos + truncated 512"
    )
    assert label(instead(combination("mean", "no_eos"), by_label("no_bos"))) == "no_bos + mean"
    assert label(without(combination("mean", "no_eos"), "pooling")) == "no_eos"
    assert label(RIGHT) == "right"


def test_no_two_are_equal() -> None:
    every = [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("task", ["web_search_query", "sts_query", "Find cats", "", " "])
@pytest.mark.parametrize(
    "prompts",
    [
        E5_PROMPTS,
        Prompts("query: {query}", "passage: "),
        Prompts("{query}\n[{task}] {{}}", before_query_by_name={"sts_query": "same: "}),
    ],
    ids=str,
)
def test_right_prompts_are_those_of_the_product(task: str, prompts: Prompts) -> None:
    rules = PromptRules(prompts, task)
    (query,) = rules.right(TEXT, "query")
    (document,) = rules.right(TEXT, "document")
    assert query.prompt == query_prompt(task, TEXT, prompts=prompts)
    assert document.prompt == document_prompt(task, TEXT, prompts=prompts)
    both = {each.prompt for each in rules.right(TEXT, "auto")}
    assert both == {query.prompt, document.prompt}


@pytest.mark.parametrize(
    ("names", "role", "prompt"),
    [
        (["no_instruction"], "query", TEXT),
        (["no_instruction"], "document", TEXT),
        (["instruction_on_document"], "document", PROMPT + TEXT),
        (["instruction_on_document"], "query", PROMPT + TEXT),
        (["double_instruction"], "query", PROMPT + PROMPT + TEXT),
        (["double_instruction"], "document", TEXT),
        (["other_instruction sts_query"], "query", query_prompt("sts_query", TEXT)),
        (["other_instruction sts_query"], "document", TEXT),
        (["no_blank_after_query"], "query", PROMPT[:-1] + TEXT),
        (["e5_prefix"], "query", "query: " + TEXT),
        (["e5_prefix"], "document", "passage: " + TEXT),
        (["newlines_replaced"], "query", PROMPT + " What is Snow? "),
        (["stripped"], "query", PROMPT + "What is\nSnow?"),
        (["lowercased"], "document", " what is\nsnow? "),
        (["no_instruction", "newlines_replaced"], "query", " What is Snow? "),
        (["e5_prefix", "lowercased"], "query", "query:  what is\nsnow? "),
    ],
)
def test_texts_and_prompts_are_changed(names: list[str], role: TextRole, prompt: str) -> None:
    (way,) = computations(combination(*names), TEXT, role, RULES)
    assert way.prompt == prompt
    assert way == Computation(way.prefix, way.text)


def test_variants_change_the_whole_prompt() -> None:
    prompts = {
        (each.name, each.variant): computations((each,), TEXT, "query", RULES)[0].prompt
        for each in HYPOTHESES
        if each.group == "text"
    }
    assert prompts["newlines_replaced", 1] == PROMPT.replace("\n", " ") + " What is Snow? "
    assert prompts["newlines_replaced", 2] == PROMPT + "What is Snow?"
    assert prompts["stripped", 1] == PROMPT + " What is\nSnow?"
    assert prompts["lowercased", 1] == (PROMPT + TEXT).lower()


def test_a_task_of_documents_too_is_right_with_its_prompt_on_both() -> None:
    rules = PromptRules(E5_PROMPTS, "sts_query")
    (bare,) = computations(combination("no_instruction"), TEXT, "document", rules)
    assert bare.prompt == TEXT
    assert computations(combination("instruction_on_document"), TEXT, "document", rules) == (
        rules.right(TEXT, "document")
    )


def test_a_text_of_unknown_role_may_be_bare_and_may_not() -> None:
    assert len(computations(RIGHT, TEXT, "auto", RULES)) == 2
    assert computations(combination("no_instruction"), TEXT, "auto", RULES) == (
        computations(RIGHT, TEXT, "auto", RULES)
    )
    both = computations(combination("e5_prefix"), TEXT, "auto", RULES)
    assert {way.prefix for way in both} == {"query: ", "passage: "}


def test_the_tasks_own_instruction_is_no_other() -> None:
    for each in OTHER_INSTRUCTIONS:
        same = TASKS[each.value].instruction == TASKS["web_search_query"].instruction
        assert (computations((each,), TEXT, "query", RULES) == RULES.right(TEXT, "query")) == same


def test_lengths_count_both_ends_or_neither() -> None:
    counts = {
        each.max_tokens
        for hypothesis in HYPOTHESES
        if hypothesis.label == "truncated 512"
        for each in computations((hypothesis,), TEXT, "document", RULES)
    }
    assert counts == {512, 514}
