"""What the modules of the wire formats share: the types of fields, and the base of their models.

A wire format is a module of pydantic models. A model validates a request and turns it into a
`ClientRequest`. Answers are plain dictionaries, whose schemas are declared as TypedDicts. Both make
`/openapi.json`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from typing_extensions import TypeAliasType

from e5.errors import quoted
from e5.gateway.backend import Backend
from e5.gateway.client_request import BuildBody, ClientRequest, ServiceCall
from e5.gateway.model_names import ModelNames
from e5.gateway.refusals import ErrorStyle
from e5.gateway.roles import PromptChoice
from e5.serving import RequestLimits
from e5.texts import MAX_CHARACTERS
from e5.validation import input_error, wrong_value
from e5.vectors import Vectors

MAX_TEXTS = RequestLimits().texts  # in one request
TOKEN_IDS_REMEDY = (
    "send texts. This model has a tokenizer of its own: with langchain-openai set "
    "check_embedding_ctx_length=False"
)
_DIMENSIONS = {
    "type": ["integer", "null"],
    "minimum": 1,
    "description": "Keep the first n numbers of each vector.",
}
_ROLE = {
    "type": ["string", "null"],
    "description": "What the texts are for: query, search_query or retrieval.query; passage, "
    "document, search_document or retrieval.passage; classification, clustering, text-matching, "
    "separation or semantic_similarity; the name of a registered task; or an instruction of more "
    "than one word. Two fields must not contradict each other. Without any, the texts are "
    "documents, or what the ending of the model's name says (-query, -passage).",
}
_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": r"\S"}


def list_of_texts(value: object) -> object:
    """A list that may hold texts; the service checks its elements."""
    if not isinstance(value, list):
        raise wrong_value(quoted(value), "send a list of strings")
    if not value:
        raise wrong_value("no text", "send at least one")
    first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
    if isinstance(first, int) and not isinstance(first, bool):
        raise wrong_value("token ids", TOKEN_IDS_REMEDY)
    return few_texts(value)


def few_texts(value: object) -> object:
    """A list that is not too long: checked before its elements, of which there may be millions."""
    if isinstance(value, list) and len(value) > MAX_TEXTS:
        raise wrong_value(f"{len(value)} texts", f"send at most {MAX_TEXTS} in one request")
    return value


def one_or_more_texts(value: object) -> object:
    """A text, or a list that may hold texts."""
    if not isinstance(value, str | list):
        raise wrong_value(quoted(value), "send a string or a list of strings")
    return value if isinstance(value, str) else list_of_texts(value)


def _integral(value: object) -> object:
    """A whole number as an int: JSON does not tell 3 from 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _truncate(value: object) -> bool | None:
    if isinstance(value, str) and value.upper() in ("NONE", "END"):
        return value.upper() == "END"
    if value is None or isinstance(value, bool):
        return value
    raise wrong_value(quoted(value), "send one of NONE, END, true, false")


def one_of(*choices: str) -> PlainValidator:
    """The validator of a field that is one of some strings, in upper or lower case, or null."""
    remedy = f"send {'one of ' * (len(choices) > 1)}{', '.join(choices)}"

    def choose(value: object) -> str | None:
        if value is None:
            return None
        for choice in choices:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise wrong_value(quoted(value), remedy)

    return PlainValidator(choose, json_schema_input_type=Literal[choices] | None)


Text = Annotated[str, WithJsonSchema(_TEXT)]
_Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
Texts = Annotated[list[Any], PlainValidator(list_of_texts, json_schema_input_type=_Texts)]
OneOrMoreTexts = Annotated[
    str | list[Any], PlainValidator(one_or_more_texts, json_schema_input_type=Text | _Texts)
]
WholeNumber = Annotated[int, BeforeValidator(_integral)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_integral)]
Truncate = Annotated[
    bool | None,
    PlainValidator(
        _truncate, json_schema_input_type=Literal["NONE", "END", "none", "end"] | bool | None
    ),
]
# They have schemas of their own in /openapi.json, which adds the model's number of dimensions.
Dimensions = TypeAliasType("Dimensions", Annotated[Count | None, WithJsonSchema(_DIMENSIONS)])
Role = TypeAliasType("Role", Annotated[str | None, WithJsonSchema(_ROLE)])


class Searchable(Protocol):
    """An index of documents, as `e5.corpora.Index` is one."""

    @property
    def task(self) -> str:
        """The task of its queries."""

    @property
    def dimensions(self) -> int:
        """The number of dimensions of its vectors."""

    def check_model(self, model: str) -> None:
        """Refuse a model other than the one that made the index.

        Raises:
            InputError: naming both.
        """

    def search(self, query: Vectors, top: int) -> Sequence[Any]:
        """Hits, the best first; `as_dict` of each gives a document's values and its `score`."""


class Auditor(Protocol):
    """Judges one vector, as `e5.audit.VectorAuditor` does."""

    async def judge(self, text: str, vector: object, role: str, task: str | None) -> dict[str, Any]:
        """The verdict on a text's vector.

        Raises:
            InputError: naming what is wrong.
        """


@dataclass(frozen=True)
class RouteContext:
    """Everything but its body that the meaning of a request depends on.

    Attributes:
        path: the route's path.
        model_names: the model names that callers may use.
        index: `POST /search` searches it.
        auditor: `POST /audit` asks it.
        path_params: the values of the route's path parameters in the URL.
        keep_prediction: keeps a prediction of this many bytes, so that it can be read again.
    """

    path: str
    model_names: ModelNames
    index: Searchable | None = None
    auditor: Auditor | None = None
    path_params: Mapping[str, str] = field(default_factory=dict)
    keep_prediction: Callable[[dict[str, Any], int], None] = lambda *_: None

    def resolve_model(self, name: str | None) -> tuple[str, str]:
        """See `ModelNames.resolve`. A `name` in the path of the URL wins over that of the body."""
        return self.model_names.resolve(self.path_params.get("name", name))


class WireRequest(BaseModel):
    """The base of requests: a JSON object. Null counts as absent; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    # Whether a body is a request of this kind, on a route that takes several kinds.
    fits: ClassVar[Callable[..., bool]] = staticmethod(lambda _: True)
    # The form of its refusals; None for that of the route.
    error_style: ClassVar[ErrorStyle | None] = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Validate a body.

        Raises:
            InputError: naming the first field that is wrong.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise input_error(error) from None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """The request, independent of its wire format.

        Raises:
            InputError: naming the field.
            RefusalError: 404 for a model that is not served.
        """
        raise NotImplementedError

    def service_call(self, context: RouteContext) -> ServiceCall:
        """The call of the service for this request. Raises as `client_request`."""
        return self.client_request(context).service_call()

    def first_given(self, *names: str) -> tuple[str, Any]:
        """The first of these fields that was sent, and its value; else the first one and None."""
        for name in names:
            if (value := getattr(self, name)) is not None:
                return name, value
        return names[0], None


class InformationRequest(WireRequest):
    """The base of requests that are answered without computing a vector."""

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """The body of the answer, as `BuildBody` gives it. Raises as `client_request`."""
        raise NotImplementedError


class TruncateOptions(WireRequest):
    """Whether texts that are too long are truncated, or refused."""

    truncate: Truncate = None
    truncation: Truncate = None

    @property
    def truncates(self) -> bool:
        """Whether texts that are too long are truncated."""
        return self.first_given("truncation", "truncate")[1] is not False


class EmbedOptions(TruncateOptions):
    """The options of all requests that embed texts."""

    normalize: bool | None = None
    dimensions: Dimensions = None
    prompt_name: Role = None

    def embedding_request(
        self,
        inputs: str | list[Any],
        field: str,
        prompt: PromptChoice,
        build_body: BuildBody,
        dimensions: tuple[str, int | None],
    ) -> ClientRequest:
        """The request to embed the text or the texts of a field with these options.

        The arguments are those of `ClientRequest`, but `dimensions` is a pair: the caller's name of
        the field, and its value.
        """
        texts, fields = named_texts(inputs, field)
        return ClientRequest(
            texts=texts,
            fields=fields,
            list_name=field,
            prompt=prompt,
            build_body=build_body,
            normalize=self.normalize is not False,
            dimensions=dimensions[1],
            truncate=self.truncates,
            renames={"dimensions": dimensions[0]},
        )


def named_texts(inputs: str | list[Any], field: str) -> tuple[list[Any], list[str]]:
    """One text or several as a list, and the caller's name of each text.

    Example:
        >>> named_texts("snow", "input"), named_texts(["snow"], "input")
        ((['snow'], ['input']), (['snow'], ['input[0]']))
    """
    if isinstance(inputs, str):
        return [inputs], [field]
    return inputs, [f"{field}[{i}]" for i in range(len(inputs))]
