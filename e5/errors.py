"""Every error this package raises on purpose.

The text of an `E5Error` is written for the person who caused it and is safe to send to a caller. It
states what was received, then the remedy. Knows nothing of HTTP, Cog or logging.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, Self, TypeAlias

Cause: TypeAlias = Literal["busy", "unreachable", "deadline", "other"]

SHOWN = 60  # characters of what a caller sent, in an error


class E5Error(Exception):
    """Base of every error below; `str(error)` is one sentence for the caller."""

    @classmethod
    def from_sentence(cls, sentence: str) -> Self:
        """Rebuild an error from its text, as another process reported it.

        Attributes that the text does not contain, such as a position, are lost.

        Example:
            >>> QueueFullError.from_sentence("the queue is full; try again in a moment.")
            QueueFullError('the queue is full; try again in a moment.')
        """
        error = cls.__new__(cls)
        error.args = (sentence,)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the sentence and the attributes, so that errors can cross processes."""
        return type(self).from_sentence, (str(self),), self.__dict__


def quoted(value: object) -> str:
    """A value that a caller sent, for an error: as JSON, on one line of at most 60 characters.

    What JSON cannot express is shown as its `repr`, or if that fails as its type. The cost does not
    grow with the value.

    Example:
        >>> quoted(None), quoted("x" * 80)[-5:]
        ('null', 'xx...')
    """
    try:
        text = json.dumps(_beginning(value, iter(range(4 * SHOWN))), default=repr)
    except Exception:  # keys that are not strings, a list inside itself, a failing repr
        text = f"<{type(value).__name__}>"
    return shortened(text)


def _beginning(value: Any, room: Iterator[int]) -> Any:
    """The first elements of lists in lists, as many as there is room for."""
    if isinstance(value, str):
        return value[: SHOWN + 1]
    if isinstance(value, list | tuple):
        return [_beginning(item, room) for item, _ in zip(value, room, strict=False)]
    if isinstance(value, dict):
        return {key: _beginning(value[key], room) for key, _ in zip(value, room, strict=False)}
    return value


def shortened(text: str, most: int = SHOWN) -> str:
    r"""A caller's text on one line of at most 60 characters; `""` if it is blank.

    What would steer a terminal is escaped.

    Example:
        >>> shortened("two\nlines, \x1b[31mred\u202e"), shortened("long", most=3)
        ('two lines, \\x1b[31mred\\u202e', '...')
    """
    text = " ".join(text.split()) or '""'
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1]
    )
    return text if len(text) <= most else f"{text[: most - 3]}..."


class InputError(E5Error):
    """An input that cannot be used.

    Example:
        >>> str(InputError("documents[2]", "7", "send a string"))
        'documents[2]: received 7; send a string.'
    """

    def __init__(self, field: str, received: str, remedy: str) -> None:
        """Keep `field` (with the index in a list), what it held, and what to send instead."""
        super().__init__(f"{field}: received {received}; {remedy}.")
        self.field = field
        self.received = received
        self.remedy = remedy

    @classmethod
    def from_sentence(cls, sentence: str) -> Self:
        """As for every error; field, received and remedy are read back from the sentence.

        Example:
            >>> InputError.from_sentence("documents[2]: received 7; send a string.").field
            'documents[2]'
        """
        error = super().from_sentence(sentence)
        parts = re.fullmatch(r"(.+?): received (.*); (.*)\.", sentence, re.DOTALL)
        error.field, error.received, error.remedy = parts.groups() if parts else ("", "", "")
        return error


class SettingsError(E5Error):
    """An `E5_*` setting whose value cannot be used."""


class WeightsError(E5Error):
    """A weights folder that is missing, incomplete, damaged or not a Mistral checkpoint."""


class TokenizerError(E5Error):
    """A tokenizer that does not produce the token ids the model was trained on."""


class TextError(E5Error):
    """A text that the model cannot embed. Other texts of the same batch are not affected.

    Attributes:
        position: the text's index in the list that was computed.
        reason: the sentence without the name of the text.
    """

    position: int = 0
    reason: str = ""

    def __init__(self, reason: str, position: int, field: str | None = None) -> None:
        """`reason` is the sentence without `field`, the caller's name for the text."""
        super().__init__(f"{field if field is not None else f'text {position}'}: {reason}")
        self.reason = reason
        self.position = position

    @classmethod
    def from_sentence(cls, sentence: str) -> Self:
        """As for every error; the reason is read back from the sentence, so that `about` works."""
        error = super().from_sentence(sentence)
        error.reason = sentence.partition(": ")[2]
        return error

    def about(self, position: int, field: str | None = None) -> "TextError":
        """The same error of the text at another position, or under the caller's name for it.

        Example:
            >>> str(NonFiniteError(0).about(2, "documents[2]"))[:32]
            'documents[2]: the model produced'
        """
        error = TextError.__new__(type(self))
        TextError.__init__(error, self.reason, position, field)
        return error


class NonFiniteError(TextError):
    """The model produced NaN or infinity for a text. Such a vector is never an answer."""

    def __init__(self, position: int, field: str | None = None) -> None:
        """See `TextError`."""
        reason = (
            "the model produced a vector with NaN or infinity; "
            "change or shorten this text, or serve with E5_DTYPE=bfloat16 (or float32)."
        )
        super().__init__(reason, position, field)


class OutOfMemoryError(TextError):
    """A single text that does not fit in the device's memory even alone."""

    def __init__(self, num_tokens: int, position: int = 0, field: str | None = None) -> None:
        """`num_tokens` is the text's length."""
        reason = (
            f"a text of {num_tokens} tokens does not fit in the GPU's memory on its own; "
            "shorten it, lower E5_MAX_LENGTH or use a larger card."
        )
        super().__init__(reason, position, field)


class QueueFullError(E5Error):
    """The service's queue has no room for the request at the moment."""

    def __init__(self, waiting_tokens: int, num_tokens: int, max_queue_tokens: int) -> None:
        """`waiting_tokens` were queued when a request of `num_tokens` arrived."""
        super().__init__(
            f"the queue is full ({waiting_tokens} tokens wait, {num_tokens} more would pass the "
            f"limit of {max_queue_tokens}); try again in a moment."
        )
        self.waiting_tokens = waiting_tokens


class RequestTooLargeError(E5Error):
    """A request of more tokens than the service's queue can ever hold."""

    def __init__(self, num_tokens: int, max_queue_tokens: int) -> None:
        """`num_tokens` counts all texts of the request."""
        super().__init__(
            f"received a request of {num_tokens} tokens; send at most {max_queue_tokens} in one "
            "(E5_MAX_QUEUE_TOKENS)."
        )


class EngineError(E5Error):
    """The engine or its cluster failed, and the caller's input was not the cause."""


class ServiceError(E5Error):
    """A service that cannot be reached, or whose response cannot be used.

    Attributes:
        cause: "busy" where another try may succeed soon; "unreachable" where nothing healthy
            answers; "deadline" where the answer did not come in time; "other" for the rest.
        retry_after: seconds until a busy service takes more, where it says so.
    """

    cause: Cause = "other"
    retry_after: float | None = None

    def __init__(
        self, sentence: str, *, cause: Cause = "other", retry_after: float | None = None
    ) -> None:
        """`sentence` is the whole text."""
        super().__init__(sentence)
        self.cause = cause
        self.retry_after = retry_after
