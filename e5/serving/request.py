"""The request: everything that a caller may send, checked.

A request is validated here, because Cog validates nothing if it finds no schema file. Builds no
prompt and knows nothing of tokens or the model. So the embedder makes the checks that need those:
`dimensions` against the model's size, `truncate` against a text's length.
"""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from e5.errors import InputError, quoted
from e5.prompts import DEFAULT_TASK, resolve_task
from e5.texts import check_task, check_text, check_texts
from e5.validation import input_error

MAX_TEXTS = 2048  # in one request; the limit of OpenAI's API
MAX_ALL_CHARACTERS = 10_000_000  # in one request; tokenising takes about 45 bytes for each
MAX_FLOATS = 2**21  # in one answer: Cog needs about 1 us for each, and is blocked meanwhile


def _text(text: object, info: ValidationInfo) -> str:
    return check_text(text, str(info.field_name))


def _task(task: object, info: ValidationInfo) -> str:
    return check_task(task, str(info.field_name))


def _texts(texts: object, info: ValidationInfo) -> list[str]:
    field = str(info.field_name)
    if not isinstance(texts, list):
        raise InputError(field, quoted(texts), "send a list of strings")
    # Before anything is copied or looked at: a body may hold millions of elements.
    if len(texts) > MAX_TEXTS:
        raise _too_many(len(texts))
    characters = sum(len(text) for text in texts if isinstance(text, str))
    if characters > MAX_ALL_CHARACTERS:
        raise _too_long(f"{characters} characters")
    return check_texts(texts, field)[0]


Task = Annotated[str, BeforeValidator(_task)]
Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[list[str], BeforeValidator(_texts)]


class EmbedRequest(BaseModel):
    """One validated request; made by `parse`.

    Example:
        >>> EmbedRequest.parse(query="what is snow", queries=["why is it white"]).fields
        ['query', 'queries[0]']
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    task: Task = DEFAULT_TASK
    query: Text | None = None
    document: Text | None = None
    queries: Texts = []
    documents: Texts = []
    symmetric: bool = False
    normalize: bool = False
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = True
    encoding_format: Literal["float", "base64"] = "float"

    @classmethod
    def parse(cls, /, **inputs: object) -> "EmbedRequest":
        """Validate a caller's inputs; None means not given.

        Raises:
            InputError: naming the first field that is wrong, its value and the remedy.
        """
        try:
            request = cls.model_validate({k: v for k, v in inputs.items() if v is not None})
        except ValidationError as error:
            raise input_error(error, cls.model_fields) from None
        if not request.fields:
            remedy = 'send at least one query or document, as JSON: {"input": {"query": "..."}}'
            raise InputError("query, document", "no text", remedy)
        if len(request.fields) > MAX_TEXTS:
            raise _too_many(len(request.fields))
        if request.num_characters > MAX_ALL_CHARACTERS:
            raise _too_long(f"{request.num_characters} characters with their prompts")
        return request

    def check_answer(self, dimensions: int) -> None:
        """Refuse an answer of so many numbers that writing them as JSON would block the server.

        Args:
            dimensions: of a whole vector.

        Raises:
            InputError: for more than `MAX_FLOATS` numbers; base64 has no such limit.
        """
        num_queries, num_documents = len(self.all_queries), len(self.all_documents)
        floats = (num_queries + num_documents) * (self.dimensions or dimensions)
        floats += num_queries * num_documents
        if self.encoding_format == "float" and floats > MAX_FLOATS:
            raise InputError(
                "encoding_format",
                f"'float' for an answer of {floats} numbers",
                f"send 'base64' for more than {MAX_FLOATS}, or fewer texts",
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


def _too_many(texts: int) -> InputError:
    return InputError("queries, documents", f"{texts} texts", f"send at most {MAX_TEXTS}")


def _too_long(received: str) -> InputError:
    remedy = f"send at most {MAX_ALL_CHARACTERS} in one request"
    return InputError("queries, documents", received, remedy)
