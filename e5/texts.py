"""The rules for texts and options of the Python API, of requests and of corpora.

Each function returns the value itself, or raises an InputError that names the caller's `field`.
Tokens are not counted, so a text that passes may still be truncated.
"""

import codecs
from collections.abc import Iterable, Mapping
from typing import Any

from e5.errors import InputError, quoted

MAX_CHARACTERS = 1_000_000  # in one text; about 60 times as many as the model reads
MAX_TASK = 10_000  # characters; the task is repeated before each query
BYTE_ORDER_MARKS = {  # encodings by how files begin; UTF-32's first: it begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8",
}


def check_text(text: object, field: str) -> str:
    """A text that can be embedded: a string, valid Unicode, not blank, not too long.

    Example:
        >>> check_text(" ", "documents[1]")
        Traceback (most recent call last):
        e5.errors.InputError: documents[1]: received blank text; send text, or leave it out.
    """
    checked = check_unicode(text, field)
    if not checked.strip():
        raise InputError(field, "blank text", "send text, or leave it out")
    if len(checked) > MAX_CHARACTERS:
        received = f"{len(checked)} characters"
        raise InputError(field, received, f"send at most {MAX_CHARACTERS} characters a text")
    return checked


def check_task(task: object, field: str = "task") -> str:
    """A task that can be an instruction or a name: at most `MAX_TASK`; "" means no task."""
    checked = check_unicode(task, field)
    if len(checked) > MAX_TASK:
        raise InputError(field, f"{len(checked)} characters", f"send at most {MAX_TASK} characters")
    return checked


def check_texts(texts: object, field: str) -> tuple[list[str], list[str]]:
    """One text or an iterable of texts as a list, and the caller's name for each.

    Example:
        >>> check_texts("snow", "queries")
        (['snow'], ['queries[0]'])
    """
    try:
        if isinstance(texts, set | frozenset):
            raise InputError(field, "a set, which has no order", "send a list of strings")
        if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
            raise TypeError
        as_list: list[Any] = [texts] if isinstance(texts, str) else list(texts)
    except TypeError as error:  # 0-d numpy arrays claim to be iterable
        raise InputError(field, quoted(texts), "send a string or a list of strings") from error
    fields = [f"{field}[{i}]" for i in range(len(as_list))]
    return [check_text(text, name) for text, name in zip(as_list, fields, strict=True)], fields


def check_flag(flag: object, field: str) -> bool:
    """A flag that is true or false and nothing else."""
    if type(flag).__name__ not in ("bool", "bool_"):  # numpy's too
        raise InputError(field, quoted(flag), "send true or false")
    return bool(flag)


def check_unicode(text: object, field: str) -> str:
    """A string that can be encoded: one without a lone surrogate."""
    if not isinstance(text, str):
        raise InputError(field, quoted(text), "send a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        received = f"a lone surrogate (character {error.start})"
        raise InputError(field, received, "send valid Unicode, without lone surrogates") from error
    return text
