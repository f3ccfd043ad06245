"""Every error that this package raises on purpose.

An error is data, a few named parts. Its text is one sentence made of them, written for the person
who caused it and safe to send to a caller. Between processes it travels as the result of `to_dict`.
"""

import json
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

Cause: TypeAlias = Literal["busy", "unreachable", "died", "deadline", "other"]

MAX_SHOWN = 60  # characters of what a caller sent, in an error
MAX_RETRY_AFTER = 1e9  # seconds; a larger value from another process is not accepted
MAX_RESTORED = 2000  # characters of each string in an error that another process sent


class E5Error(Exception):
    """Base of every error below; `str(error)` is one sentence on one line for the caller.

    Attributes:
        message: the sentence.

    Example:
        >>> error = InputError("documents[2]", "7", "send a string")
        >>> error.to_dict()["type"], str(E5Error.from_dict(error.to_dict()))
        ('InputError', 'documents[2]: received 7; send a string.')
    """

    parts: ClassVar[tuple[str, ...]] = ("message",)  # the attributes that define the error
    sentence: ClassVar[str] = "{message}"  # the format string that makes its text of them

    message: str

    def __init__(self, message: str) -> None:
        self._set(message=message)

    def _set(self, **values: object) -> None:
        """Set the parts, each string on one line, and make the message of them."""
        for name, value in values.items():
            setattr(self, name, one_line(value) if isinstance(value, str) else value)
        self.message = self.sentence.format_map(vars(self))
        self.args = (self.message,)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """A copy of the error whose field has the caller's name `names[field]`, if there is one.

        Example:
            >>> error = InputError("documents[0]", "null", "send a string")
            >>> str(error.renamed({"documents[0]": "input[2]"}))
            'input[2]: received null; send a string.'
        """
        field = getattr(self, "field", "")
        return self._changed(field=names[field]) if field in names else self._changed()

    def to_dict(self) -> dict[str, Any]:
        """The error as plain values, for JSON: the name of its class as `type`, and its parts."""
        return {"type": type(self).__name__, **self._values()}

    @staticmethod
    def from_dict(data: object) -> "E5Error | None":
        """The error that another process described by `to_dict`; None for anything else.

        Nothing in `data` is trusted: each string becomes one printable line of at most
        `MAX_RESTORED` characters.
        """
        if not isinstance(data, dict) or not isinstance(data.get("type"), str):
            return None
        kind = ERRORS_BY_NAME.get(data["type"])
        if kind is None or not all(_is_valid(name, data.get(name)) for name in kind.parts):
            return None
        parts = ((name, data.get(name)) for name in kind.parts)
        return kind._of({n: v[:MAX_RESTORED] if isinstance(v, str) else v for n, v in parts})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the class and the parts, so that errors can cross processes."""
        return self._of, (self._values(),)

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.parts}

    def _changed(self, **changes: object) -> Self:
        return self._of(self._values() | changes)

    @classmethod
    def _of(cls, values: Mapping[str, object]) -> Self:
        """Make an error of its parts, without its constructor."""
        error = cls.__new__(cls)
        error._set(**values)
        return error


def _is_valid(part: str, value: Any) -> bool:
    """Whether a value that another process sent can be this part of an error."""
    if part == "position":
        return type(value) is int and value >= 0
    if part == "cause":
        return value in get_args(Cause)
    if part == "retry_after":
        return value is None or (type(value) in (int, float) and 0 <= value <= MAX_RETRY_AFTER)
    return isinstance(value, str)


def quoted(value: object) -> str:
    """A value that a caller sent, for an error: as JSON, on one line of at most 60 characters.

    What JSON cannot express is shown as its `repr`, or if that fails as its type. The cost does not
    grow with the length of strings, lists and objects.

    Example:
        >>> quoted(None), quoted("x" * 80)[-5:]
        ('null', 'xx...')
    """
    try:
        text = json.dumps(_beginning(value, iter(range(4 * MAX_SHOWN))), default=repr)
    except Exception:  # keys that are not strings, a list inside itself, a failing repr
        text = f"<{type(value).__name__}>"
    return shortened(text)


def _beginning(value: Any, budget: Iterator[int]) -> Any:
    """A value without the end of long strings, and with as many items as `budget` has left."""
    if isinstance(value, str | bytes):
        return value[: MAX_SHOWN + 1]
    if isinstance(value, list | tuple):
        return [_beginning(item, budget) for item, _ in zip(value, budget, strict=False)]
    if isinstance(value, dict):
        items = zip(value.items(), budget, strict=False)
        return {_beginning(key, budget): _beginning(item, budget) for (key, item), _ in items}
    return value


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    r"""A caller's text on one line of at most 60 characters; `""` if it is blank.

    Characters that control a terminal are escaped.

    Example:
        >>> shortened("two\nlines, \x1b[31mred\u202e"), shortened("long", most=3)
        ('two lines, \\x1b[31mred\\u202e', '...')
    """
    text = " ".join(text.split()) or '""'
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1]
    )
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(text: str) -> str:
    r"""A text on one line that cannot control a terminal: unprintable characters become spaces.

    Example:
        >>> one_line("a\x1b[2Jb\nc")
        'a [2Jb c'
    """
    return "".join(c if c.isprintable() else " " for c in text)


class FieldError(E5Error):
    """An error about an input, a setting or a file.

    Attributes:
        field: the name of what was given, such as `documents[2]` or `E5_DTYPE`.
        received: what was given.
        remedy: what to give instead, as an imperative without a full stop.
    """

    parts: ClassVar[tuple[str, ...]] = ("field", "received", "remedy")
    sentence = "{field}: received {received}; {remedy}."

    field: str
    received: str
    remedy: str

    def __init__(self, field: str | PathLike[str], received: str, remedy: str) -> None:
        self._set(field=fspath(field), received=received, remedy=remedy)


class InputError(FieldError):
    """An input that cannot be used."""


class SettingsError(FieldError):
    """An `E5_*` setting whose value cannot be used."""


class FileError(FieldError):
    """A file that cannot be used: `received` says what is wrong with it.

    Example:
        >>> str(WeightsError("weights/x", "there is no such folder", "download the weights"))
        'weights/x: there is no such folder; download the weights.'
    """

    sentence = "{field}: {received}; {remedy}."


class WeightsError(FileError):
    """A checkpoint that is missing, incomplete, damaged or not of a Mistral."""


class TokenizerError(FileError):
    """A tokenizer that does not produce the token ids the model was trained on."""


class TextError(FieldError):
    """A text that the model cannot embed. Other texts of the same batch are not affected.

    Attributes:
        position: the text's index in the list that was computed.
    """

    parts = (*FieldError.parts, "position")

    position: int

    def __init__(self, field: str | None, received: str, remedy: str, *, position: int) -> None:
        """`field` is the caller's name for the text; None: `text` and its position."""
        self.position = position
        super().__init__(f"text {position}" if field is None else field, received, remedy)

    def at(self, position: int, field: str | None = None) -> Self:
        """The same error of the text at another position, or under the caller's name for it.

        Example:
            >>> str(NonFiniteError(0).at(2, "documents[2]"))[:44]
            'documents[2]: received a text whose vector h'
        """
        field = f"text {position}" if field is None else field
        return self._changed(position=position, field=field)


class NonFiniteError(TextError):
    """The model produced NaN or infinity for a text. Such a vector is never an answer."""

    def __init__(self, position: int, field: str | None = None) -> None:
        received = "a text whose vector holds NaN or infinity"
        remedy = "change or shorten this text, or serve with E5_DTYPE=bfloat16 (or float32)"
        super().__init__(field, received, remedy, position=position)


class OutOfMemoryError(TextError):
    """A single text that does not fit in the device's memory even alone."""

    def __init__(self, num_tokens: int, position: int = 0, field: str | None = None) -> None:
        too_large = "which does not fit in the card's memory on its own"
        received = f"a text of {num_tokens} tokens, {too_large}"
        remedy = "shorten it, lower E5_MAX_LENGTH or use a larger card"
        super().__init__(field, received, remedy, position=position)


class RequestTooLargeError(FieldError):
    """A request of more tokens than the service's queue can ever hold."""

    def __init__(self, num_tokens: int, max_queue_tokens: int) -> None:
        remedy = f"send at most {max_queue_tokens} in one (E5_MAX_QUEUE_TOKENS)"
        super().__init__("queries, documents", f"a request of {num_tokens} tokens", remedy)


class QueueFullError(E5Error):
    """The service's queue has no room for the request at the moment."""

    def __init__(self, waiting_tokens: int, num_tokens: int, max_queue_tokens: int) -> None:
        super().__init__(
            f"the queue is full ({waiting_tokens} tokens wait, {num_tokens} more would pass the "
            f"limit of {max_queue_tokens}); try again in a moment."
        )


class EngineError(E5Error):
    """The engine or its cluster failed, and the caller's input was not the cause."""


class ServiceError(E5Error):
    """A service that cannot be reached, or whose response cannot be used.

    Attributes:
        cause: "busy" where another try may succeed soon; "unreachable" where nothing healthy
            answers; "died" where the worker died while it had the request; "deadline" where the
            answer did not come in time; "other" for the rest.
        retry_after: seconds until a busy service takes more, where it says so.
    """

    parts = ("message", "cause", "retry_after")

    cause: Cause
    retry_after: float | None

    def __init__(
        self, message: str, *, cause: Cause = "other", retry_after: float | None = None
    ) -> None:
        self._set(message=message, cause=cause, retry_after=retry_after)


ERRORS_BY_NAME: Mapping[str, type[E5Error]] = {
    name: kind
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, E5Error)
}
