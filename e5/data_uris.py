"""Data URIs (RFC 2397) among the texts of a prediction.

Cog's command line and web pages put the content of a file into an input as a data URI. There, a
text that is one stands for what it holds. Whoever sends texts that shall stay what they are, such
as `Client`, escapes those that are data URIs themselves.
"""

import binascii
import codecs
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

from e5.errors import InputError, shortened
from e5.texts import MAX_CHARACTERS

# A text, and the caller's name of it -> the text that replaces it.
ChangeText: TypeAlias = Callable[[str, str], str]

# The beginning of each text that `escape` has changed. No other program writes the parameter.
ESCAPED = "data:text/plain;charset=utf-8;escaped=e5;base64,"
# Four bytes a character at most, three characters such as %F0 for each, and the media type.
MAX_URI = 12 * MAX_CHARACTERS + 10_000

_HEADER = re.compile(
    r'data:(?P<media>[^\s,;"]*(?:; ?[^\s,;"=]+=(?:[^\s,;"]*|"[^"]*"))*)(?P<base64>;base64)?,', re.I
)
_MEDIA_TYPE = re.compile(r"([^/;]+/[^/;]+)?(;|$)")  # without base64, another word is no URI
_CHARSET = re.compile(r'; ?charset="?([^";]*)', re.I)
_NO_URI = re.compile(r"[\s\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})")
_NO_UNICODE = re.compile(r"[\ud800-\udfff]")  # refused where texts are checked
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r"))
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_REMEDY = "send text, or a file of text in UTF-8"


class _DataUri(NamedTuple):
    media: str  # the media type with its parameters, such as `text/plain;charset=utf-8`
    is_base64: bool
    payload: str


def change_texts(
    inputs: Mapping[str, object], change: ChangeText, *, max_texts: float = math.inf
) -> dict[str, object]:
    """The inputs of a prediction, with what `change` makes of each text that begins with `data:`.

    What is no text stays, to be refused later; so does a list of more than `max_texts`, unread.

    Example:
        >>> change_texts({"documents": ["snow", "data:,ice"]}, read_data_uri)
        {'documents': ['snow', 'ice']}
    """

    def changed(text: object, field: str, index: int | None = None) -> object:
        if not isinstance(text, str) or text[:5].lower() != "data:":
            return text
        return change(text, field if index is None else f"{field}[{index}]")

    found = dict(inputs)
    for field in found.keys() & {"task", "query", "document"}:
        found[field] = changed(found[field], field)
    for field in found.keys() & {"queries", "documents"}:
        texts = found[field]
        if isinstance(texts, list) and len(texts) <= max_texts:
            found[field] = [changed(text, field, index) for index, text in enumerate(texts)]
    return found


def read_data_uri(text: str, field: str) -> str:
    """The text that a data URI holds, without a byte-order mark; any other text as it is.

    Raises:
        InputError: about `field`, for a data URI whose base64 is damaged, or that holds anything
            but text in UTF-8.

    Example:
        >>> read_data_uri("data:text/plain;base64,c25vdw==", "query")
        'snow'
        >>> read_data_uri("data: the new oil", "query")
        'data: the new oil'
    """
    if (unescaped := unescape(text, field)) is not text:
        return unescaped
    # A longer text has too many characters in any case: it is refused where texts are checked.
    uri = _parse(text) if len(text) <= MAX_URI else None
    if uri is None:
        return text
    shown = shortened(uri.media) if uri.media else "a data URI"
    content = unquote_to_bytes(uri.payload)
    if uri.is_base64:
        try:
            content = _decode_base64(content)
        except binascii.Error as error:
            received = f"{shown} in damaged base64 of {len(uri.payload)} characters"
            raise InputError(field, received, _REMEDY) from error
    try:
        if not _is_utf8(uri.media, content):
            raise ValueError
        return content.decode("utf-8-sig")
    except ValueError as error:
        received = f"{shown} of {len(content)} bytes, which is not text in UTF-8"
        raise InputError(field, received, _REMEDY) from error


def escape(text: str, _field: str) -> str:
    """A text for which `read_data_uri` gives this text: itself, unless it is a data URI.

    Example:
        >>> escape("data:,ice", "query")
        'data:text/plain;charset=utf-8;escaped=e5;base64,ZGF0YTosaWNl'
    """
    if _parse(text) is None:
        return text
    return ESCAPED + b64encode(text.encode()).decode()


def unescape(text: str, field: str) -> str:
    """The text that `escape` has changed into this one; any other text as it is."""
    if not text.startswith(ESCAPED):
        return text
    try:
        unescaped = b64decode(text[len(ESCAPED) :]).decode()
    except ValueError:
        return text
    return unescaped if escape(unescaped, field) == text else text


def _parse(text: str) -> _DataUri | None:
    """The parts of a data URI; None for another text, such as `data:two words, and more`."""
    header = _HEADER.match(text)
    if header is None or _NO_UNICODE.search(text):
        return None
    if not header["base64"] and (
        not _MEDIA_TYPE.match(header["media"]) or _NO_URI.search(text, header.end())
    ):
        return None
    return _DataUri(header["media"], bool(header["base64"]), text[header.end() :])


def _decode_base64(payload: bytes) -> bytes:
    """Standard or URL-safe base64, with or without its padding and line breaks.

    Raises:
        binascii.Error: for anything else.
    """
    digits = payload.translate(_STANDARD_ALPHABET, b"\t\n\f\r ")
    missing = -len(digits) % 4
    if missing == 3 or (missing and digits.endswith(b"=")):
        raise binascii.Error("its end is missing")
    return b64decode(digits + b"=" * missing, validate=True)


def _is_utf8(media: str, content: bytes) -> bool:
    """Whether bytes are not said, and do not look, to be in another encoding than UTF-8."""
    if (charset := _CHARSET.search(media)) is not None:
        try:
            name = codecs.lookup(charset[1].strip()).name
        except LookupError:
            return False
        same = ("utf-8", "ascii", "iso8859", "cp125") if content.isascii() else ("utf-8", "ascii")
        if not name.startswith(same):
            return False
    # UTF-16 without a mark is valid UTF-8 in many scripts, and half of it control characters.
    return 3 * (len(content) - len(content.translate(None, _CONTROLS))) <= len(content)
