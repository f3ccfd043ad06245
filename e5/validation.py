"""Pydantic's errors as this package's: one rule for every schema that is declared as a model."""

from collections.abc import Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from e5.errors import InputError, quoted, shortened

# By pydantic's kind of an error; in braces what the error carries.
REMEDIES_BY_KIND: Mapping[str, str] = {
    "bool_type": "send true or false",
    "dict_type": "send an object",
    "greater_than_equal": "send {ge} or more",
    "int_type": "send a whole number",
    "list_type": "send a list",
    "literal_error": "send {expected}",
    "model_type": "send an object",
    "string_type": "send a string",
    "string_unicode": "send valid Unicode, without lone surrogates",
    "too_short": "send at least {min_length}",
    "wrong_value": "{remedy}",
}


def wrong_value(received: str, remedy: str) -> PydanticCustomError:
    """The error that a validator raises where pydantic's own kinds of errors say too little.

    Pydantic knows the name of the field, and `input_error` writes the sentence.
    """
    context = {"received": received, "remedy": remedy}
    return PydanticCustomError("wrong_value", "received {received}; {remedy}", context)


def input_error(error: ValidationError, known_fields: Iterable[str] = ()) -> InputError:
    """The first of pydantic's errors, in the caller's names of the fields.

    `known_fields` are the names of all fields, for a model that forbids others.

    Example:
        >>> from pydantic import BaseModel
        >>> class Options(BaseModel):
        ...     top: int
        >>> class Body(BaseModel):
        ...     parameters: list[Options]
        >>> try:
        ...     Body.model_validate({"parameters": [{"top": 1}, {"top": None}]})
        ... except ValidationError as error:
        ...     str(input_error(error))
        'parameters[1].top: received nothing; send it.'
    """
    details = error.errors(include_url=False)[0]
    kind, value, path = details["type"], details["input"], details["loc"]
    if kind == "extra_forbidden" or not path:  # without a path, the name is not valid Unicode
        field = shortened(str(path[0])) if path else quoted(value)
        return InputError(field, "an unknown input", f"the inputs are {', '.join(known_fields)}")
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    if kind == "missing" or (value is None and isinstance(path[-1], str)):
        return InputError(field, "nothing", "send it")
    context = details.get("ctx", {})
    template = REMEDIES_BY_KIND.get(kind)
    remedy = template.format_map(context) if template else details["msg"]
    return InputError(field, context.get("received", quoted(value)), remedy)
