"""The request, which is everything that a caller may send, checked; and the answer to it.

A request is checked here because Cog checks nothing if it finds no schema file. What needs the
model is checked later: the service checks `dimensions` against the model's size, and the embedder
`truncate` against a text's length.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from e5.errors import InputError, quoted
from e5.prompts import DEFAULT_TASK, resolve_task
from e5.texts import check_task, check_text, check_texts
from e5.validation import input_error
from e5.vectors import Vectors


@dataclass(frozen=True)
class RequestLimits:
    """The most that one request may hold."""

    texts: int = 2048  # the limit of OpenAI's API
    characters: int = 10_000_000  # with their prompts; tokenising takes about 45 bytes for each
    numbers: int = 2**21  # in an answer as JSON numbers: Cog is blocked for about 0.1 us by each


_DEFAULT_LIMITS = RequestLimits()


def _check_texts(texts: object, info: ValidationInfo) -> list[str]:
    field, limits = str(info.field_name), info.context or _DEFAULT_LIMITS
    if not isinstance(texts, list):
        raise InputError(field, quoted(texts), "send a list of strings")
    # Before anything is copied or looked at: a body may hold millions of elements.
    _check_count(len(texts), limits.texts, "texts")
    characters = sum(len(text) for text in texts if isinstance(text, str))
    _check_count(characters, limits.characters, "characters")
    return check_texts(texts, field)[0]


def _check_count(count: int, limit: int, unit: str) -> None:
    if count > limit:
        remedy = f"send at most {limit} in one request"
        raise InputError("queries, documents", f"{count} {unit}", remedy)


_Task = Annotated[str, BeforeValidator(lambda task, info: check_task(task, info.field_name))]
_Text = Annotated[str, BeforeValidator(lambda text, info: check_text(text, info.field_name))]
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
            raise input_error(error, cls.model_fields) from None
        if not request.fields:
            remedy = 'send at least one query or document, as JSON: {"input": {"query": "..."}}'
            raise InputError("query, document", "no text", remedy)
        _check_count(len(request.fields), limits.texts, "texts")
        _check_count(request.num_characters, limits.characters, "characters with their prompts")
        return request

    def check_answer_size(self, dimensions: int, limits: RequestLimits = _DEFAULT_LIMITS) -> None:
        """Refuse, by an InputError, an answer of more numbers as JSON than the limit.

        `dimensions` are those of a whole vector. Base64 has no limit.
        """
        num_queries, num_documents = len(self.all_queries), len(self.all_documents)
        numbers = (num_queries + num_documents) * (self.dimensions or dimensions)
        numbers += num_queries * num_documents
        if self.encoding_format == "float" and numbers > limits.numbers:
            received = f"'float' for an answer of {numbers} numbers"
            remedy = f"send 'base64' for more than {limits.numbers}, or fewer texts"
            raise InputError("encoding_format", received, remedy)

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
        task, texts = resolve_task(self.task), [*self.all_queries, *self.all_documents]
        prompted = texts if self.symmetric or task.symmetric else self.all_queries
        return sum(map(len, texts)) + len(prompted) * len(task.instruction)

    @cached_property
    def fields(self) -> list[str]:
        """The caller's name for each text: queries first, then documents, as in the answer."""
        return [
            *(["query"] if self.query is not None else []),
            *(f"queries[{i}]" for i in range(len(self.queries))),
            *(["document"] if self.document is not None else []),
            *(f"documents[{i}]" for i in range(len(self.documents))),
        ]


@dataclass(frozen=True)
class Answer:
    """What the service computed for one request.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, queries first, then documents.
        scores: float32 `[num_queries, num_documents]`, cosine x 100; empty without queries, without
            documents, and in the answer of a remote service.
        tokens: the number of tokens of each text that were read, in the order of the vectors.
        truncated: whether each text was truncated.
        model: name and fingerprint of the model.
        metrics: `queue_ms`, `forward_ms`, `tokens`, `batch_texts`, and `cached` where there is a
            cache; {} in the answer of a remote service.
    """

    vectors: Vectors
    scores: Vectors
    tokens: list[int]
    truncated: list[bool]
    model: str
    metrics: dict[str, float]

    @property
    def num_floats(self) -> int:
        """The number of float32 values in vectors and scores together."""
        return self.vectors.size + self.scores.size
