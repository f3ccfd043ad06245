r"""Prompts that clients write into their texts, recognised by their words.

The model was trained on `Instruct: {task}\nQuery: {query}`, and another form gives another vector.
But clients that join strings or replace line breaks, and settings in which `\n` is two characters,
change it on the way. `ClientRequest.service_call` says which texts may have a prompt.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from e5.prompts import TEMPLATE

_GAP = r"(?:\s|\ufeff|\\+[nrt])*"  # white space, also as it is written in code: \n
# \uff1a is the colon of Chinese and Japanese keyboards.
_BEGINNING = re.compile(rf"{_GAP}(instruct)\s*[:\uff1a]", re.IGNORECASE)
_QUERY = re.compile(r"(query)\s*[:\uff1a]", re.IGNORECASE)
_END_OF_LINE = re.compile(r"(?:[\n\v\f\r\x85\u2028\u2029]|\\[nr])[ \t]*\Z")
_OTHER_CASES = ("instructquery", "INSTRUCTQUERY")  # texts wholly in lower or in upper case
# A request may have 10 million characters, so this much of a text is searched: characters of white
# space, characters of an instruction, occurrences of `Query:`.
_NEARBY, _LONGEST_INSTRUCTION, _MOST_MATCHES = 64, 1000, 8


@dataclass
class FoundPrompts:
    """The prompts that a request's texts bring.

    Attributes:
        texts: all texts, with repaired prompts.
        own: the positions of the texts that bring their prompt, among those that may have one.
        repaired: those of them whose prompt had another form.
        unlike: the positions of other texts that begin like a prompt of the model and are none.
        num_prompted: the number of texts that may have a prompt.
    """

    texts: list[Any]
    own: list[int]
    repaired: list[int]
    unlike: list[int]
    num_prompted: int

    def header(self, prompt: str, fields: Sequence[str]) -> str:
        """The value of `x-e5-prompt`.

        Args:
            prompt: what was put before the other texts; "" if there are no others.
            fields: the caller's name of each text.

        Example:
            >>> texts = ["snow", "Instruct: Find twins Query: snow", "Instruct: Find twins"]
            >>> find_prompts(texts, range(3)).header('query "..."', ["a", "b", "c"])
            'query "...", own 1/3, repaired: b, begins like a prompt: c'
        """
        if not (self.own or self.unlike):
            return prompt
        parts = [prompt] if prompt else []
        if self.own:
            is_all = len(self.own) == self.num_prompted
            parts.append("own" if is_all else f"own {len(self.own)}/{self.num_prompted}")
        parts = parts or ["document"]
        for what, positions in (("repaired", self.repaired), ("begins like a prompt", self.unlike)):
            if positions:
                others = f" and {len(positions) - 1} more" if len(positions) > 1 else ""
                parts.append(f"{what}: {fields[positions[0]]}{others}")
        return ", ".join(parts)


def find_prompts(texts: Sequence[Any], prompted: Iterable[int]) -> FoundPrompts:
    """Look for prompts at the beginnings of texts.

    Args:
        texts: not checked yet, so that some may be no strings.
        prompted: the positions of those that may have a prompt. The others are documents, which
            stay as they are.
    """
    positions = frozenset(prompted)
    found = FoundPrompts(list(texts), [], [], [], len(positions))
    for i, text in enumerate(texts):
        if not begins_like_prompt(text):
            continue
        prompt = written_prompt(text)
        if i in positions and prompt is not None:
            found.texts[i] = prompt
            found.own.append(i)
            if prompt != text:
                found.repaired.append(i)
        elif prompt != text:
            found.unlike.append(i)
    return found


def begins_like_prompt(text: object) -> bool:
    """Whether a text begins with `Instruct:`, in upper or lower case.

    Example:
        >>> begins_like_prompt(" instruct: Find twins"), begins_like_prompt("Instruct me")
        (True, False)
    """
    return isinstance(text, str) and _BEGINNING.match(text, 0, _NEARBY) is not None


def written_prompt(text: str) -> str | None:
    r"""The prompt that the client meant to write, in the form that the model was trained on.

    A text that has this form comes back as it is. None stands for a text that does not begin like a
    prompt, or of which it is not certain where the query begins.

    Example:
        >>> written_prompt("Instruct: Find twins Query:snow")
        'Instruct: Find twins\nQuery: snow'
        >>> written_prompt("Instruct: Find twins") is None
        True
    """
    if text.startswith("Instruct: ") and (end := text.find("\nQuery: ")) >= 0:
        task = text[len("Instruct: ") : end]
        if task == task.strip():
            return text
    beginning = _BEGINNING.match(text, 0, _NEARBY)
    if beginning is None:
        return None
    start = beginning.end()
    found = islice(_QUERY.finditer(text, start, start + _LONGEST_INSTRUCTION), _MOST_MATCHES)
    certainties = [
        (_certainty(text, query, beginning[1]), -query.start(), query) for query in found
    ]
    certainty, _, query = max(certainties, default=(0, 0, None))  # the first of the most certain
    if not certainty or query is None:
        return None
    task = text[start : query.start()].strip()
    while task.endswith((r"\n", r"\r")):
        task = task[:-2].rstrip("\\").rstrip()
    searched = text[query.end() :].lstrip()
    return TEMPLATE.format(task=task, query=searched) if task and searched else None


def _certainty(text: str, query: re.Match[str], instruct: str) -> int:
    """How certain it is that this `Query:` ends the instruction; 0 if it may belong to it.

    Args:
        text: the whole text.
        query: the position of the word `Query:`.
        instruct: the first word of the text.
    """
    before, word = text[max(0, query.start() - _NEARBY) : query.start()], query[1]
    if _END_OF_LINE.search(before):
        return 3
    if before[-1:].isspace() and (word == "Query" or (instruct + word) in _OTHER_CASES):
        return 2
    return int(word == "Query")  # a client that removes line breaks
