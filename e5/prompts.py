"""Prompts: the query template, the registry of named tasks, and a checkpoint's own prompts.

A query is embedded with an instruction, a document without one. In a *symmetric* task (similarity,
classification, clustering, duplicates, translation) both are the same sort of text and both carry
the instruction. The registry is `tasks.json`, which also says where its names and texts come from.
A checkpoint may name prompts of its own, which then replace the registry's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from e5.errors import quoted

TEMPLATE = "Instruct: {task}\nQuery: {query}"
# E5's prompt, or one that differs from it in blanks only; the groups are what stands before and
# after the instruction.
_E5_FORM = re.compile(r"(Instruct: *)[^\n]*[^\s](\s+Query: *)")


@dataclass(frozen=True)
class Task:
    """An instruction, and whether documents carry it too."""

    instruction: str
    symmetric: bool


_REGISTRY = json.loads(Path(__file__).with_name("tasks.json").read_text(encoding="utf-8"))

TASKS: Mapping[str, Task] = {
    name: Task(instruction, group["symmetric"])
    for group in _REGISTRY["groups"]
    for name, instruction in group["instructions"].items()
}
DEFAULT_NAME = "web_search_query"
DEFAULT_TASK = TASKS[DEFAULT_NAME].instruction

# sentence-transformers' names for the prompt of documents, in its order.
_SIDES_OF_DOCUMENTS = ("document", "passage", "corpus")

_TASKS_BY_LOWER_NAME = {
    **{name.lower(): task for name, task in TASKS.items()},
    **{alias: TASKS[name] for alias, name in _REGISTRY["aliases_of_beir"].items()},
}


def resolve_task(task: str) -> Task:
    """A named task of the registry (case is ignored), or `task` itself as the instruction.

    Example:
        >>> resolve_task("sts_query")
        Task(instruction='Retrieve semantically similar text.', symmetric=True)
        >>> resolve_task("Find the recipe that uses these leftovers")
        Task(instruction='Find the recipe that uses these leftovers', symmetric=False)
    """
    name = task.strip().lower()
    if name.startswith("cqadupstack") and len(name.split()) == 1:  # one task for all its forums
        name = "cqadupstack"
    return _TASKS_BY_LOWER_NAME.get(name, Task(task, symmetric=False))


@dataclass(frozen=True)
class Prompts:
    """The prompts of a checkpoint; by default E5's.

    Attributes:
        template: the template of a query's prompt.
        before_document: the text that stands before a document, unless the task is symmetric.
        before_query_by_name: for a task's name in lower case, the text that stands before a query
            instead of the template. That of `web_search_query` also serves queries without a task.
    """

    template: str = TEMPLATE
    before_document: str = ""
    before_query_by_name: Mapping[str, str] = field(default_factory=dict)


E5_PROMPTS = Prompts()


def prompts_from_names(texts: Mapping[str, str], default: str | None = None) -> Prompts | None:
    r"""The prompts that sentence-transformers' prompts by name mean; None if all are empty.

    Queries get that of `query`, else the one that `default` names, else that of `web_search_query`;
    documents that of `document`, `passage` or `corpus`, else none. If the queries' prompt shows
    where its instruction stands, other instructions are put there; else it serves every task.

    Raises:
        ValueError: saying why it is not certain what queries begin with.

    Example:
        >>> prompts_from_names({"query": "query: ", "passage": "passage: "})
        Prompts(template='query: {query}', before_document='passage: ', before_query_by_name={})
        >>> prompts_from_names({"law": "Instruct: Find statutes\nQuery: "}).before_query_by_name
        {'law': 'Instruct: Find statutes\nQuery: '}
    """
    by_name: dict[str, str] = {}
    for name, text in texts.items():
        if by_name.setdefault(name.strip().lower(), text) != text:
            raise ValueError(f"it has two prompts of the name {quoted(name)}")
        if re.search(r"\{\w*\}", text):
            raise ValueError(f"the prompt {quoted(name)} has a placeholder: {quoted(text)}")
    query = by_name.pop("query", "")
    document, passage, corpus = (by_name.pop(side, "") for side in _SIDES_OF_DOCUMENTS)
    before_document = document or passage or corpus
    if not query and not any(side in str(default).lower() for side in _SIDES_OF_DOCUMENTS):
        query = texts.get(str(default), "")
    by_default_name = by_name.get(DEFAULT_NAME, "")
    if query and by_default_name and query != by_default_name:
        found = f"queries begin with {quoted(query)}, and those of {DEFAULT_NAME}"
        raise ValueError(f"{found}, the task of all that name none, with {quoted(by_default_name)}")
    query = query or by_default_name
    if query:
        by_name[DEFAULT_NAME] = query
        template = _template(DEFAULT_NAME, query) or f"{_escaped(query)}{{query}}"
    elif before_document or any(by_name.values()):
        templates = {_template(name, text) for name, text in by_name.items()} - {None}
        if before_document or len(templates) != 1:
            raise ValueError("it has prompts, and none that is certainly that of queries")
        template = str(templates.pop())
    else:
        return None
    filled = Prompts(template)
    differing = {
        name: text
        for name, text in by_name.items()
        if query_prompt(name, "", prompts=filled) != text
    }
    return Prompts(template, before_document, differing)


def _template(name: str, text: str) -> str | None:
    """The template that a task's prompt fills; None if it does not show where."""
    if match := _E5_FORM.fullmatch(text):
        return f"{match[1]}{{task}}{match[2]}{{query}}"
    task = resolve_task(name)
    before, found, behind = text.partition(task.instruction)
    if not found or task not in TASKS.values():
        return None
    return f"{_escaped(before)}{{task}}{_escaped(behind)}{{query}}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def around_query(task: str, prompts: Prompts = E5_PROMPTS) -> tuple[str, str]:
    r"""What the checkpoint's prompt puts before and after a query: nothing if the task is blank.

    Example:
        >>> around_query("sts_query")
        ('Instruct: Retrieve semantically similar text.\nQuery: ', '')
    """
    if not task.strip():
        return "", ""
    instruction, own = resolve_task(task).instruction, prompts.before_query_by_name
    name = DEFAULT_NAME if instruction == DEFAULT_TASK else task.strip().lower()
    if name in own:
        return own[name], ""
    before, after = prompts.template.split("{query}")
    return before.format(task=instruction), after.format(task=instruction)


def query_prompt(task: str, query: str, *, prompts: Prompts = E5_PROMPTS) -> str:
    r"""The text to tokenise for a query: with the checkpoint's prompt, unless the task is blank.

    Example:
        >>> query_prompt("web_search_query", "what is snow")[-41:]
        'that answer the query\nQuery: what is snow'
        >>> own = Prompts(before_query_by_name={"law": "Law: "})
        >>> query_prompt("law", "what is snow", prompts=own)
        'Law: what is snow'
    """
    before, after = around_query(task, prompts)
    return f"{before}{query}{after}"


def document_prompt(
    task: str, document: str, *, symmetric: bool = False, prompts: Prompts = E5_PROMPTS
) -> str:
    r"""The text to tokenise for a document: without a task's prompt, unless the task is symmetric.

    Registered symmetric tasks always are, and others if `symmetric` says so.

    Example:
        >>> document_prompt("sts_query", "Snow falls.")
        'Instruct: Retrieve semantically similar text.\nQuery: Snow falls.'
        >>> document_prompt("", "Snow falls.", prompts=Prompts(before_document="passage: "))
        'passage: Snow falls.'
    """
    if symmetric or resolve_task(task).symmetric:
        return query_prompt(task, document, prompts=prompts)
    return prompts.before_document + document


def is_template(template: str) -> bool:
    """Whether a text can be a template: `{query}` once, `{task}` at most once, no other field.

    Example:
        >>> is_template(TEMPLATE), is_template("query: {query}"), is_template("{0}")
        (True, True, False)
    """
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:  # a brace that is never closed
        return False
    query, task = ("query", "", None), ("task", "", None)
    return fields in ([query], [query, task], [task, query])
