"""Fields of a JSON body, one by one: what is absent, what has the wrong type.

null is absent, because half of the clients send null for what their caller left out. Knows nothing
of any one wire format.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from e5.errors import InputError, quoted
from e5.serving.request import MAX_TEXTS

Choice = TypeVar("Choice", bound=str)
TOKENS = (
    "send texts. This model has a tokenizer of its own: with langchain-openai set "
    "check_embedding_ctx_length=False"
)


class Fields:
    """A JSON object that a caller sent.

    Example:
        >>> Fields({"normalize": None, "dimensions": 8}).integer("dimensions")
        8
    """

    def __init__(self, body: Mapping[str, Any], prefix: str = "") -> None:
        """`prefix` is put before each field's name in errors."""
        self._body = body
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self._body.get(name) is not None

    def any(self, name: str) -> Any:
        """The value; None where there is none."""
        return self._body.get(name)

    def required(self, name: str) -> Any:
        """The value.

        Raises:
            InputError: where there is none.
        """
        value = self._body.get(name)
        if value is None:
            raise InputError(self._prefix + name, "nothing", "send it")
        return value

    def text(self, name: str) -> str | None:
        """A string.

        Raises:
            InputError: for anything else.
        """
        value: str | None = self._typed(name, str, "send a string")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            InputError: for anything else.
        """
        value = self._typed(name, bool, "send true or false")
        return default if value is None else value

    def integer(self, *names: str) -> int | None:
        """A whole number, under the first of the names that is there.

        Raises:
            InputError: for anything else.
        """
        for name in names:
            value = self._body.get(name)
            if value is not None:
                if isinstance(value, float) and value.is_integer():
                    value = int(value)  # JSON has one kind of numbers
                if not isinstance(value, int) or isinstance(value, bool):
                    raise InputError(self._prefix + name, quoted(value), "send a whole number")
                return value
        return None

    def choice(self, name: str, choices: Sequence[Choice], default: Choice) -> Choice:
        """One of some words, in any case.

        Raises:
            InputError: for anything else.
        """
        value = self.text(name)
        if value is None:
            return default
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        remedy = f"send one of {', '.join(choices)}"
        raise InputError(self._prefix + name, quoted(value), remedy)

    def object(self, name: str) -> "Fields":
        """An object; an empty one where there is none.

        Raises:
            InputError: for anything else.
        """
        value = self._typed(name, dict, "send an object")
        return Fields(value or {}, f"{self._prefix}{name}.")

    def texts(self, name: str, *, single: bool = True) -> tuple[list[Any], list[str]]:
        """Texts, and the caller's name of each; what they hold is checked later.

        Args:
            name: of the field.
            single: one string may stand for a list of one.

        Raises:
            InputError: for what is no list, an empty one, one that is too long, or token ids.
        """
        value = self.required(name)
        name = self._prefix + name
        if single and isinstance(value, str):
            return [value], [name]
        if not isinstance(value, list):
            remedy = "send a string or a list of strings" if single else "send a list of strings"
            raise InputError(name, quoted(value), remedy)
        if not value:
            raise InputError(name, "no text", "send at least one")
        first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
        if isinstance(first, int) and not isinstance(first, bool):
            raise InputError(name, "token ids", TOKENS)
        if len(value) > MAX_TEXTS:  # looked at before any of them: there may be millions
            received = f"{len(value)} texts"
            raise InputError(name, received, f"send at most {MAX_TEXTS} in one request")
        return value, [f"{name}[{i}]" for i in range(len(value))]

    def _typed(self, name: str, kind: type[Any], remedy: str) -> Any:
        value = self._body.get(name)
        if value is not None and not isinstance(value, kind):
            raise InputError(self._prefix + name, quoted(value), remedy)
        return value


Truncate = Literal["NONE", "END"]


def truncate_of(fields: Fields, *, default: bool = True) -> bool:
    """`truncate` and `truncation` as clients send them: true, false, NONE or END.

    Raises:
        InputError: for anything else. START is not served: the model reads the beginning.
    """
    for name in ("truncation", "truncate"):
        value = fields.any(name)
        if isinstance(value, bool):
            return value
        if value is not None:
            choices: tuple[Truncate, ...] = ("NONE", "END")
            return fields.choice(name, choices, "END") == "END"
    return default
