"""The words that clients have for a text's role -> the prompt that this model needs.

One pure table. Clients say `query` in a dozen ways (`search_query`, `retrieval.query`, a model name
that ends in `-query`), and E5-Mistral needs the instruction for queries alone. Knows nothing of
HTTP, wire formats or models.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from e5.errors import InputError, quoted
from e5.prompts import DEFAULT_TASK, TASKS, resolve_task

Side = Literal["query", "document", "symmetric"]

SIDES: Mapping[str, Side] = {
    # NVIDIA, Voyage, Cohere, Jina, text-embeddings-inference
    **dict.fromkeys(("query", "search_query", "retrieval.query"), "query"),
    **dict.fromkeys(("passage", "document", "search_document", "retrieval.passage"), "document"),
    **dict.fromkeys(
        ("classification", "clustering", "text-matching", "separation", "semantic_similarity"),
        "symmetric",
    ),
}
SUFFIXES: Mapping[str, Side] = {"-query": "query", "-passage": "document"}  # of a model's name
SYMMETRIC_TASK = "sts_query"
HEADER_CHARACTERS = 200  # of a task


@dataclass(frozen=True)
class Prompt:
    """How the texts of a request are embedded.

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
        """For `x-e5-prompt`: the side, and the instruction that was put before the texts.

        Example:
            >>> Prompt("Find twins", "query").header
            'query "Find twins"'
            >>> Prompt("", "document").header
            'document'
        """
        if not self.prompted:
            return "document"
        instruction = json.dumps(resolve_task(self.task).instruction[:HEADER_CHARACTERS])
        return f"{self.side} {instruction}".replace("\x7f", "\\u007f")  # no control characters


BARE = Prompt("", "document")


def prompt_for(words: Mapping[str, str | None], suffix: str = "") -> Prompt:
    """The prompt that a request's fields ask for together.

    Args:
        words: what each field says, by the client's name of it: `input_type`, `task`,
            `prompt_name`. A word is a role, the name of a registered task, or an instruction.
        suffix: of the model's name: `-query`, `-passage` or "".

    Raises:
        InputError: for a word that means nothing, or two that contradict each other.

    Example:
        >>> prompt_for({"input_type": "search_document"})
        Prompt(task='', side='document')
        >>> prompt_for({"input_type": "query", "task": "SciFact"})
        Prompt(task='SciFact', side='query')
        >>> prompt_for({"task": "sts_query"}).side
        'symmetric'
    """
    sides: dict[str, Side] = {}
    tasks: dict[str, str] = {}
    if suffix:
        words = {"model": suffix, **words}
        sides["model"] = SUFFIXES[suffix]
    for field, word in words.items():
        if word is None or not word.strip() or field in sides:
            continue
        if side := SIDES.get(word.strip().lower()):
            sides[field] = side
        elif _is_task(word):
            tasks[field] = word
        else:
            remedy = f"send one of {', '.join(SIDES)}, a registered task, or an instruction"
            raise InputError(field, quoted(word), remedy)
    _agree(sides, words)
    _agree({field: resolve_task(task).instruction for field, task in tasks.items()}, words)
    side = next(iter(sides.values()), None)
    task = next(iter(tasks.values()), None)
    if task is not None and resolve_task(task).symmetric:
        side = "symmetric"  # both sides carry it, whichever was named
    if task is None:
        task = {"query": DEFAULT_TASK, "symmetric": SYMMETRIC_TASK}.get(side or "document", "")
    elif side is None:
        side = "query"
    return Prompt("", "document") if side == "document" else Prompt(task, side or "document")


def brings_its_own(text: str) -> bool:
    r"""Whether a text already carries a prompt, so that a second one would harm it.

    Example:
        >>> brings_its_own("Instruct: Find twins\nQuery: snow"), brings_its_own("snow")
        (True, False)
    """
    return text.startswith("Instruct: ") and "\nQuery: " in text


def _is_task(word: str) -> bool:
    """A registered name, or a sentence: one unknown word is most likely a misspelt name."""
    known = resolve_task(word).instruction != word or word in TASKS
    return known or len(word.split()) > 1


def _agree(meanings: Mapping[str, str], words: Mapping[str, str | None]) -> None:
    first, *others = meanings or [""]
    for field in others:
        if meanings[field] != meanings[first]:
            received = f"{quoted(words[field])}, where {first} says {quoted(words[first])}"
            raise InputError(field, received, "send one of them, or two that agree")
