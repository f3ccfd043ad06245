"""The JSON in the bytes of a body, or the error that says which text its sender must change.

A fast parser reads every body. What that refuses is read again by Python's own, which also takes
half a surrogate pair (JavaScript leaves one where it cuts an emoji), NaN, and with some help bytes
of other encodings. So it finds the text that is wrong, where the fast parser names a byte.
"""

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from e5.errors import InputError, shortened
from e5.texts import check_unicode

STRAY_BYTE = re.compile("[\udc80-\udcff]")  # as "surrogateescape" decodes it
MAX_NAMES = 32  # of fields that are looked for in a body's bytes one by one


def parse_body(body: bytes) -> Any:
    """The JSON in a body. A byte-order mark of UTF-8 may stand before it.

    Raises:
        InputError: for what is not JSON, in UTF-8, or names a field twice.

    Example:
        >>> parse_body(b'{"input": "snow"}')
        {'input': 'snow'}
        >>> parse_body(b'{"input": ["snow", NaN]}')
        Traceback (most recent call last):
        e5.errors.InputError: input[1]: received NaN; send a number, a string or null.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        parsed = orjson.loads(body)
    except ValueError as error:
        raise _what_is_wrong(body, str(error)) from error
    if isinstance(parsed, dict):
        _check_names(body, parsed)
    return parsed


def _check_names(body: bytes, parsed: Mapping[str, Any]) -> None:
    """Refuse an object that names a field twice: a parser takes the last in silence.

    Fields of the body and of the objects in it are checked, not those of lists of objects.
    """
    names = list(parsed)
    for inner in parsed.values():
        if isinstance(inner, dict):
            names += inner
    if body.count(b":") == len(names):  # one for each name: as nearly always
        return
    # In a text, the quotes around a name have backslashes before them.
    quoted_names = [b'"%s"' % name.encode() for name in names[: MAX_NAMES + 1]]
    if len(names) > MAX_NAMES or any(body.find(q) != body.rfind(q) for q in quoted_names):
        with suppress(RecursionError):  # of what no field of ours holds
            # Slower, and certain. Not as int: Python refuses more than 4,300 digits.
            json.loads(body, object_pairs_hook=_checked_object, parse_int=float)


def _checked_object(pairs: list[tuple[str, Any]]) -> None:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise InputError(shortened(name), f"{count} values in one object", "send one")


def _what_is_wrong(body: bytes, reason: str) -> InputError:
    """The error of a body that the fast parser refuses for this reason."""
    if not body.strip():
        return InputError("the body", "nothing", "send JSON")
    encoding = json.detect_encoding(body)
    beginning = body[:64].decode(encoding, "replace").lstrip("\ufeff \t\r\n")
    if encoding != "utf-8" and beginning.startswith(("{", "[")):
        return InputError("the body", encoding[:6].upper(), "send JSON in UTF-8")
    text = body.decode(errors="surrogateescape")
    is_utf8 = STRAY_BYTE.search(text) is None
    try:
        # Not as int: Python refuses more than 4,300 digits.
        parsed = json.loads(text, parse_int=float, parse_constant=_Constant)
        wrong = _first_wrong(parsed, is_utf8=is_utf8)
    except RecursionError:
        return InputError("the body", "too many lists or objects in each other", "send texts")
    except ValueError:
        wrong = _wrong_text(text, is_utf8=is_utf8)
    if wrong is None:
        return InputError("the body", f"what is not JSON ({reason})", "send JSON")
    field = wrong.field.removeprefix(".") or "the body"
    return InputError(field, wrong.received, wrong.remedy)


class _Constant(str):
    """NaN, Infinity or -Infinity, which Python's parser takes for numbers."""

    __slots__ = ()


def _first_wrong(value: Any, *, is_utf8: bool) -> InputError | None:
    """The error of the first value that JSON cannot hold; its field is the way from `value`."""
    if isinstance(value, _Constant):
        return InputError("", value, "send a number, a string or null")
    if isinstance(value, str):
        return _wrong_text(value, is_utf8=is_utf8)
    if isinstance(value, float) and math.isinf(value):
        return InputError("", "a number that is too large", "send a smaller one")
    if isinstance(value, list):
        steps: Iterable[tuple[str, Any]] = ((f"[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, dict):
        names = _wrong_text("".join(value), is_utf8=is_utf8)
        if names:
            return InputError(".the names of fields", names.received, names.remedy)
        steps = ((f".{shortened(name)}", item) for name, item in value.items())
    else:
        return None
    for step, item in steps:
        if wrong := _first_wrong(item, is_utf8=is_utf8):
            return InputError(step + wrong.field, wrong.received, wrong.remedy)
    return None


def _wrong_text(text: str, *, is_utf8: bool) -> InputError | None:
    """The error of a text that holds a lone surrogate, or a byte that is not UTF-8."""
    if not is_utf8 and (stray := STRAY_BYTE.search(text)):
        byte = f"0x{ord(stray[0]) - 0xDC00:02x}"
        received = f"bytes that are not UTF-8 ({byte}, character {stray.start()})"
        return InputError("", received, "send the body in UTF-8")
    try:
        check_unicode(text, "")
    except InputError as error:
        return error
    return None
