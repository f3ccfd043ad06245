"""Prompts: the query template and the registry of named tasks.

A query is embedded with an instruction, a document without one. In a *symmetric* task (similarity,
classification, clustering, duplicates, translation) both are the same sort of text and both carry
the instruction. The registry is `tasks.json`, which also says where its names and texts come from.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

TEMPLATE = "Instruct: {task}\nQuery: {query}"


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
DEFAULT_TASK = TASKS["web_search_query"].instruction

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


def query_prompt(task: str, query: str, *, template: str = TEMPLATE) -> str:
    r"""The text to tokenise for a query: with the checkpoint's template, unless the task is blank.

    Example:
        >>> query_prompt("web_search_query", "what is snow")[-41:]
        'that answer the query\nQuery: what is snow'
    """
    if not task.strip():
        return query
    return template.format(task=resolve_task(task).instruction, query=query)


def document_prompt(
    task: str, document: str, *, symmetric: bool = False, template: str = TEMPLATE
) -> str:
    r"""The text to tokenise for a document: without a prompt, unless the task is symmetric.

    Registered symmetric tasks always are, and others if `symmetric` says so.

    Example:
        >>> document_prompt("sts_query", "Snow falls.")
        'Instruct: Retrieve semantically similar text.\nQuery: Snow falls.'
    """
    if symmetric or resolve_task(task).symmetric:
        return query_prompt(task, document, template=template)
    return document


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
