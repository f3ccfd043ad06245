"""The request: everything that a caller may send, checked.

A request is validated here, because Cog validates nothing if it finds no schema file. The embedder
checks what needs the model: `dimensions` against its size, `truncate` against a text's length.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from e5.errors import InputError, quoted, shortened
from e5.prompts import DEFAULT_TASK, resolve_task
from e5.texts import check_task, check_text, check_texts


@dataclass(frozen=True)
class RequestLimits:
    """The limits of one request.

    Attributes:
        texts: number of texts; OpenAI's API has the same limit.
        characters: characters of all texts with their prompts; tokenising takes about 45 bytes for
            each.
        numbers: numbers in an answer that is written as JSON numbers: Cog needs about 1 us for
            each, and is blocked meanwhile.
    """

    texts: int = 2048
    characters: int = 10_000_000
    numbers: int = 2**21

    def check_texts(self, num_texts: int) -> None:
        """Refuse too many texts.

        Raises:
            InputError: for more than `texts`.
        """
        if num_texts > self.texts:
            received, remedy = f"{num_texts} texts", f"send at most {self.texts}"
            raise InputError("queries, documents", received, remedy)

    def check_characters(self, num_characters: int, of: str = "") -> None:
        """Refuse too many characters; `of` says in the error what was counted.

        Raises:
            InputError: for more than `characters`.
        """
        if num_characters > self.characters:
            received = f"{num_characters} characters{of}"
            remedy = f"send at most {self.characters} in one request"
            raise InputError("queries, documents", received, remedy)


_DEFAULT_LIMITS = RequestLimits()


def _check_text(text: object, info: ValidationInfo) -> str:
    return check_text(text, str(info.field_name))


def _check_task(task: object, info: ValidationInfo) -> str:
    return check_task(task, str(info.field_name))


def _check_texts(texts: object, info: ValidationInfo) -> list[str]:
    field = str(info.field_name)
    limits: RequestLimits = info.context or _DEFAULT_LIMITS
    if not isinstance(texts, list):
        raise InputError(field, quoted(texts), "send a list of strings")
    # Before anything is copied or looked at: a body may hold millions of elements.
    limits.check_texts(len(texts))
    limits.check_characters(sum(len(text) for text in texts if isinstance(text, str)))
    return check_texts(texts, field)[0]


_Task = Annotated[str, BeforeValidator(_check_task)]
_Text = Annotated[str, BeforeValidator(_check_text)]
_Texts = Annotated[list[str], BeforeValidator(_check_texts)]


class EmbedRequest(BaseModel):
    """One validated request; made by `parse`.

    Example:
        >>> EmbedRequest.parse(query="what is snow", queries=["why is it white"]).fields
        ['query', 'queries[0]']
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    task: _Task = DEFAULT_TASK
    query: _Text | None = None
    document: _Text | None = None
    queries: _Texts = []
    documents: _Texts = []
    symmetric: bool = False
    normalize: bool = False
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = True
    encoding_format: Literal["float", "base64"] = "float"

    @classmethod
    def parse(cls, limits: RequestLimits = _DEFAULT_LIMITS, /, **inputs: object) -> "EmbedRequest":
        """Validate a caller's inputs; None means not given.

        Raises:
            InputError: naming the first field that is wrong, its value and the remedy.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        try:
            request = cls.model_validate(given, context=limits)
        except ValidationError as error:
            raise _as_input_error(error.errors(include_url=False)[0]) from None
        if not request.fields:
            remedy = 'send at least one query or document, as JSON: {"input": {"query": "..."}}'
            raise InputError("query, document", "no text", remedy)
        limits.check_texts(len(request.fields))
        limits.check_characters(request.num_characters, of=" with their prompts")
        return request

    def check_answer(self, dimensions: int, limits: RequestLimits = _DEFAULT_LIMITS) -> None:
        """Refuse an answer of so many numbers that writing them as JSON would block the server.

        Args:
            dimensions: of a whole vector.
            limits: `numbers` counts; base64 has no such limit.

        Raises:
            InputError: for more numbers.
        """
        num_queries, num_documents = len(self.all_queries), len(self.all_documents)
        numbers = (num_queries + num_documents) * (self.dimensions or dimensions)
        numbers += num_queries * num_documents
        if self.encoding_format == "float" and numbers > limits.numbers:
            raise InputError(
                "encoding_format",
                f"'float' for an answer of {numbers} numbers",
                f"send 'base64' for more than {limits.numbers}, or fewer texts",
            )

    @cached_property
    def all_queries(self) -> list[str]:
        """Every query, in the order of the answer."""
        return self.queries if self.query is None else [self.query, *self.queries]

    @cached_property
    def all_documents(self) -> list[str]:
        """Every document, in the order of the answer."""
        return self.documents if self.document is None else [self.document, *self.documents]

    @cached_property
    def num_characters(self) -> int:
        """Characters of all texts, and of the instruction for each text that carries it."""
        task = resolve_task(self.task)
        prompted = len(self.all_queries)
        if self.symmetric or task.symmetric:
            prompted += len(self.all_documents)
        texts = sum(map(len, self.all_queries)) + sum(map(len, self.all_documents))
        return texts + prompted * len(task.instruction)

    @cached_property
    def fields(self) -> list[str]:
        """The caller's name for each text: queries first, then documents, as in the answer."""
        return [
            *(["query"] if self.query is not None else []),
            *(f"queries[{i}]" for i in range(len(self.queries))),
            *(["document"] if self.document is not None else []),
            *(f"documents[{i}]" for i in range(len(self.documents))),
        ]


INPUTS = ", ".join(EmbedRequest.model_fields)


def _as_input_error(error: ErrorDetails) -> InputError:
    """Pydantic's first error, as a sentence for the caller."""
    place, kind = error["loc"], error["type"]
    field = shortened(str(place[0])) if place else quoted(error["input"])  # name not valid Unicode
    if kind == "extra_forbidden" or not place:
        return InputError(field, "an unknown input", f"the inputs are {INPUTS}")
    remedies = {
        "bool_type": "send true or false",
        "int_type": "send a whole number",
        "literal_error": "send 'float' or 'base64'",
        "string_unicode": "send valid Unicode, without lone surrogates",
        "greater_than_equal": "send 1 or more",
    }
    return InputError(field, quoted(error["input"]), remedies.get(kind, error["msg"]))
