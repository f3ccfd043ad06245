"""The names that clients have for a text's role -> the prompt that this model needs.

Clients say `query` in a dozen ways (`search_query`, `retrieval.query`, a model name that ends in
`-query`), and E5-Mistral needs the instruction for queries alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from e5.errors import InputError, quoted
from e5.prompts import DEFAULT_TASK, TASKS, resolve_task

Side = Literal["query", "document", "symmetric"]

SIDES_BY_ROLE: Mapping[str, Side] = {
    # NVIDIA, Voyage, Cohere, Jina, text-embeddings-inference
    **dict.fromkeys(("query", "search_query", "retrieval.query"), "query"),
    **dict.fromkeys(("passage", "document", "search_document", "retrieval.passage"), "document"),
    **dict.fromkeys(
        ("classification", "clustering", "text-matching", "separation", "semantic_similarity"),
        "symmetric",
    ),
    # Google, whose other names of tasks are those above
    **dict.fromkeys(
        ("retrieval_query", "question_answering", "fact_verification", "code_retrieval_query"),
        "query",
    ),
    "retrieval_document": "document",
}
SIDES_BY_SUFFIX: Mapping[str, Side] = {"-query": "query", "-passage": "document"}  # of model names
SYMMETRIC_TASK = "sts_query"
HEADER_CHARACTERS = 200  # of the instruction in x-e5-prompt


@dataclass(frozen=True)
class PromptChoice:
    """Which prompt the texts of a request get: a task, and the side that they are on.

    Attributes:
        task: an instruction or a registered name; "" for none.
        side: whether the texts are queries, documents, or both sides of a symmetric task.
    """

    task: str
    side: Side

    @property
    def prompted(self) -> bool:
        """Whether the texts carry the task's instruction."""
        return self.side != "document" or resolve_task(self.task).symmetric

    @property
    def header(self) -> str:
        """The value of `x-e5-prompt`: the side, and the instruction that was put before the texts.

        Example:
            >>> PromptChoice("Find twins", "query").header
            'query "Find twins"'
            >>> PromptChoice("", "document").header
            'document'
        """
        if not self.prompted:
            return "document"
        instruction = json.dumps(resolve_task(self.task).instruction[:HEADER_CHARACTERS])
        return f"{self.side} {instruction}".replace("\x7f", "\\u007f")  # no control characters


def prompt_for(roles: Mapping[str, str | None], suffix: str = "") -> PromptChoice:
    """The prompt that the fields of a request choose together.

    Args:
        roles: the value of each field that may say a role (`input_type`, `task`, `prompt_name`), by
            the client's name of the field. A value is a role, the name of a registered task, or an
            instruction.
        suffix: the ending of the model's name: `-query`, `-passage` or "".

    Raises:
        InputError: for a value without a meaning, or two that contradict each other.

    Example:
        >>> prompt_for({"input_type": "search_document"})
        PromptChoice(task='', side='document')
        >>> prompt_for({"input_type": "query", "task": "SciFact"})
        PromptChoice(task='SciFact', side='query')
        >>> prompt_for({"task": "sts_query"}).side
        'symmetric'
    """
    sides: dict[str, Side] = {}
    tasks: dict[str, str] = {}
    if suffix:
        roles = {"model": suffix, **roles}
        sides["model"] = SIDES_BY_SUFFIX[suffix]
    for field, role in roles.items():
        if role is None or not role.strip() or field in sides:
            continue
        if side := SIDES_BY_ROLE.get(role.strip().lower()):
            sides[field] = side
        elif _is_task(role):
            tasks[field] = role
        else:
            remedy = f"send one of {', '.join(SIDES_BY_ROLE)}, a registered task, or an instruction"
            raise InputError(field, quoted(role), remedy)
    _check_agreement(sides, roles)
    instructions = {field: resolve_task(task).instruction for field, task in tasks.items()}
    _check_agreement(instructions, roles)
    chosen_side = next(iter(sides.values()), None)
    task = next(iter(tasks.values()), None)
    if task is not None and resolve_task(task).symmetric:
        chosen_side = "symmetric"  # both sides carry it, whichever was named
    if chosen_side == "document" or (chosen_side is None and task is None):
        return PromptChoice("", "document")
    if task is None:
        task = DEFAULT_TASK if chosen_side == "query" else SYMMETRIC_TASK
    return PromptChoice(task, chosen_side or "query")


def _is_task(role: str) -> bool:
    """A registered name, or a sentence: one unknown word is most likely a misspelt name."""
    is_known = resolve_task(role).instruction != role or role in TASKS
    return is_known or len(role.split()) > 1


def _check_agreement(meanings: Mapping[str, str], roles: Mapping[str, str | None]) -> None:
    first, *others = meanings or [""]
    for field in others:
        if meanings[field] != meanings[first]:
            received = f"{quoted(roles[field])}, where {first} says {quoted(roles[first])}"
            remedy = "send one of them, or two that agree"
            if first == "model":
                remedy = (
                    f"leave {roles[first]} off the model's name, or send a role that agrees with it"
                )
            raise InputError(field, received, remedy)
