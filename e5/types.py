"""The request and answer models: what a caller may send and what comes back.

All validation of a request happens here, because Cog validates nothing when it finds no schema
file. Cog's static parser reads `Output` and `Usage` as text to publish the schema. Knows nothing of
tokens or of the model, so the checks that need those (`dimensions` against the model's size,
`truncate` against a text's length) are the embedder's.
"""

import base64
import json
from collections import OrderedDict
from typing import Annotated, Any, Literal, Optional

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from e5.errors import InputError
from e5.prompts import DEFAULT_TASK, document_prompt, query_prompt
from e5.vectors import Vectors

MAX_TEXTS = 2048  # in one request; as many as OpenAI's API takes
MAX_CHARACTERS = 1_000_000  # in one text; about 60 times what the model can read
MAX_TASK = 10_000  # characters; it is put before each of the queries
MAX_ALL_CHARACTERS = 10_000_000  # in one request; tokenising takes some 45 bytes for each
MAX_FLOATS = 2**21  # in one answer: Cog needs about a microsecond for each and serves nobody else
INPUTS = (
    "task, query, document, queries, documents, symmetric, normalize, dimensions, truncate, "
    "encoding_format"
)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "send text, or leave the field out")
    if len(text) > MAX_CHARACTERS:
        raise PydanticCustomError("too_large", f"send at most {MAX_CHARACTERS} characters a text")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]


class EmbedRequest(BaseModel):
    """One validated request; `parse` is the way in.

    Example:
        >>> EmbedRequest.parse(query="what is snow", queries=["why is it white"]).fields
        ['query', 'queries[0]']
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    task: Annotated[str, Field(max_length=MAX_TASK)] = DEFAULT_TASK
    query: Text | None = None
    document: Text | None = None
    queries: list[Text] = []
    documents: list[Text] = []
    symmetric: bool = False
    normalize: bool = False
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = True
    encoding_format: Literal["float", "base64"] = "float"

    @classmethod
    def parse(cls, /, **inputs: object) -> "EmbedRequest":
        """Validate a caller's inputs; None means not given.

        Raises:
            InputError: naming the first field that is wrong, what it held and the remedy.
        """
        try:
            request = cls.model_validate({k: v for k, v in inputs.items() if v is not None})
        except ValidationError as error:
            raise _as_input_error(error.errors(include_url=False)[0]) from None
        if not request.fields:
            raise InputError("query, document", "no text", "send at least one query or document")
        if len(request.fields) > MAX_TEXTS:
            raise InputError(
                "queries, documents", f"{len(request.fields)} texts", f"send at most {MAX_TEXTS}"
            )
        characters = sum(map(len, request.prompts))
        if characters > MAX_ALL_CHARACTERS:
            raise InputError(
                "queries, documents",
                f"{characters} characters with their prompts",
                f"send at most {MAX_ALL_CHARACTERS} in one request",
            )
        return request

    def check_answer(self, hidden_size: int) -> None:
        """Refuse an answer of more numbers than can be written as numbers without a long stall.

        Raises:
            InputError: naming base64, which has no such limit.
        """
        num_documents = len(self.fields) - self.num_queries
        floats = len(self.fields) * (self.dimensions or hidden_size)
        floats += self.num_queries * num_documents
        if self.encoding_format == "float" and floats > MAX_FLOATS:
            raise InputError(
                "encoding_format",
                f"'float' for an answer of {floats} numbers",
                f"send 'base64' for more than {MAX_FLOATS}, or fewer texts",
            )

    @property
    def num_queries(self) -> int:
        """How many of the texts are queries; they come first."""
        return len(self.queries) + (self.query is not None)

    @property
    def fields(self) -> list[str]:
        """The caller's name of each text, in the order of the answer."""
        return [
            *(["query"] if self.query is not None else []),
            *(f"queries[{i}]" for i in range(len(self.queries))),
            *(["document"] if self.document is not None else []),
            *(f"documents[{i}]" for i in range(len(self.documents))),
        ]

    @property
    def prompts(self) -> list[str]:
        """Each text with its prompt, in the order of `fields`."""
        queries = [self.query, *self.queries] if self.query is not None else self.queries
        documents = (
            [self.document, *self.documents] if self.document is not None else self.documents
        )
        return [
            *(query_prompt(self.task, query) for query in queries),
            *(
                document_prompt(self.task, document, symmetric=self.symmetric)
                for document in documents
            ),
        ]


class Usage(BaseModel):
    """What was read of each text, in the order of the vectors."""

    tokens: list[int]
    truncated: list[bool]


class Output(BaseModel):
    """The answer. Queries come first, then documents, each in the order given."""

    embeddings: Optional[list[list[float]]] = None
    embeddings_base64: Optional[list[str]] = None
    score: Optional[float] = None
    scores: Optional[list[list[float]]] = None
    usage: Usage
    model: str

    @classmethod
    def of(
        cls, vectors: Vectors, scores: Vectors, usage: Usage, model: str, *, encoding_format: str
    ) -> "Output":
        """An answer, built without validation: the parts are ours, and may be millions of floats.

        Args:
            vectors: `[num_texts, dimensions]`, queries first.
            scores: `[num_queries, num_documents]`; may be empty.
            usage: of each text.
            model: what computed it.
            encoding_format: `float` or `base64`.
        """
        as_base64 = encoding_format == "base64"
        return cls.model_construct(
            embeddings=None if as_base64 else nine_digits(vectors).tolist(),
            embeddings_base64=[encode_base64(row) for row in vectors] if as_base64 else None,
            score=nine_digits(scores).item() if scores.size == 1 else None,
            scores=nine_digits(scores).tolist() if scores.size else None,
            usage=usage,
            model=model,
        )

    def model_dump(self, **_: Any) -> "OrderedDict[str, Any]":
        """The answer as plain data, in a shape that Cog hands on unread.

        Cog walks every element of lists and dicts in Python, 13 us a float: 100 ms for two vectors.
        It does not walk subclasses of dict, so an OrderedDict goes to its JSON encoder as it is.
        """
        return OrderedDict(self.__dict__, usage=self.usage.__dict__)


def encode_base64(vector: Vectors) -> str:
    """Little-endian float32 in base64, as in OpenAI's API.

    Example:
        >>> encode_base64(np.array([1.0], np.float32))
        'AACAPw=='
    """
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def nine_digits(values: Vectors) -> NDArray[np.float64]:
    """Float32 as the float64 of nine significant digits, which name each float32 uniquely.

    Read back as float32 they are the same numbers, in two thirds of the bytes and half of the
    encoder's time that the exact float64 would take.

    Example:
        >>> nine_digits(np.array([0.1], np.float32)).tolist(), float(np.float32(0.1))
        ([0.100000001], 0.10000000149011612)
    """
    exact = values.astype(np.float64)
    exponent = np.floor(np.log10(np.abs(exact), where=exact != 0, out=np.zeros_like(exact)))
    scale = 10.0 ** (8 - exponent)
    rounded: NDArray[np.float64] = np.round(exact * scale) / scale
    return rounded


def _as_input_error(error: ErrorDetails) -> InputError:
    """Pydantic's first complaint, as a sentence for the caller."""
    name, *rest = error["loc"]
    field = _short(str(name)) + "".join(f"[{index}]" for index in rest if isinstance(index, int))
    value, kind = error["input"], error["type"]
    received = _short(json.dumps(value, default=repr))  # as it was sent: null, true, "text"
    if kind == "extra_forbidden":
        return InputError(field, "an unknown input", f"the inputs are {INPUTS}")
    if kind in ("blank", "too_large", "string_too_long"):
        received = "blank text" if kind == "blank" else f"{len(value)} characters"
    remedies = {
        "string_type": "send a string",
        "string_unicode": "send valid Unicode, without lone surrogates",
        "bool_type": "send true or false",
        "int_type": "send a whole number",
        "list_type": "send a list of strings",
        "literal_error": "send 'float' or 'base64'",
        "greater_than_equal": "send 1 or more",
        "string_too_long": f"send at most {MAX_TASK} characters",
    }
    return InputError(field, received, remedies.get(kind, error["msg"]))


def _short(text: str) -> str:
    """At most 60 characters of one line, whatever a caller sent."""
    text = " ".join(text.split()) or '""'
    return text if len(text) <= 60 else f"{text[:57]}..."
