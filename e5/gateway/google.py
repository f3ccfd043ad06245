"""Google's embedContent and batchEmbedContents, and Vertex AI's predict.

The URL names the model. Each text of a batch has its own task, so queries and documents may stand
in one. Names may be in snake case, and tasks may be numbers: protobuf's JSON allows both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from e5.errors import InputError, quoted
from e5.gateway import wire
from e5.gateway.backend import BackendInfo
from e5.gateway.client_request import BuildBody, ClientRequest
from e5.gateway.roles import PromptChoice, prompt_for
from e5.gateway.wire import MAX_TEXTS, RouteContext
from e5.serving import Answer
from e5.validation import wrong_value

TASK_TYPES = (  # in the order of their numbers
    *("TASK_TYPE_UNSPECIFIED", "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY"),
    *("CLASSIFICATION", "CLUSTERING", "QUESTION_ANSWERING", "FACT_VERIFICATION"),
    "CODE_RETRIEVAL_QUERY",
)


_NAMES: dict[object, str] = {**dict(enumerate(TASK_TYPES)), **{name: name for name in TASK_TYPES}}


def _task_type(value: object) -> str | None:
    """A task's name, or None for none; a number is a position in Google's list of names."""
    if value is None:
        return None
    key = value.upper() if isinstance(value, str) else value
    if isinstance(key, bool) or not isinstance(key, str | int) or key not in _NAMES:
        raise wrong_value(quoted(value), f"send one of {', '.join(TASK_TYPES)}")
    return None if _NAMES[key] == TASK_TYPES[0] else _NAMES[key]


def _one_content(value: object) -> object:
    if isinstance(value, list):
        raise wrong_value("a list", "send one content here, and several to :batchEmbedContents")
    return value


TaskType: TypeAlias = Annotated[
    str | None,
    PlainValidator(_task_type, json_schema_input_type=Literal[TASK_TYPES] | None),
]
_LIST = (
    Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True),
    BeforeValidator(wire.few_texts),
)

GoogleEmbedding = TypedDict("GoogleEmbedding", {"values": list[float]})
UsageMetadata = TypedDict("UsageMetadata", {"promptTokenCount": int})
EmbedContentAnswer = TypedDict(
    "EmbedContentAnswer", {"embedding": GoogleEmbedding, "usageMetadata": UsageMetadata}
)
BatchEmbedContentsAnswer = TypedDict(
    "BatchEmbedContentsAnswer",
    {"embeddings": list[GoogleEmbedding], "usageMetadata": UsageMetadata},
)
EmbeddingStatistics = TypedDict("EmbeddingStatistics", {"token_count": int, "truncated": bool})
VertexEmbedding = TypedDict(
    "VertexEmbedding", {"values": list[float], "statistics": EmbeddingStatistics}
)
VertexPrediction = TypedDict("VertexPrediction", {"embeddings": VertexEmbedding})
PredictAnswer = TypedDict("PredictAnswer", {"predictions": list[VertexPrediction]})
GoogleModel = TypedDict(
    "GoogleModel",
    {"name": str, "displayName": str, "version": str, "inputTokenLimit": int},
)
GoogleModels = TypedDict("GoogleModels", {"models": list[GoogleModel]})


class GoogleObject(wire.WireRequest):
    """The base of Google's objects: names in camel case or in snake case."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ContentPart(GoogleObject):
    """A part of a text; the model reads nothing else."""

    text: str


class Content(GoogleObject):
    """The parts of one text, which Google reads as one."""

    parts: Annotated[list[ContentPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """All parts as one text, with line breaks between them."""
        return "\n".join(part.text for part in self.parts)


class ContentOptions(GoogleObject):
    """How one text is embedded."""

    task_type: TaskType = None
    title: str | None = None
    output_dimensionality: wire.Dimensions = None
    auto_truncate: bool | None = None


@dataclass(frozen=True)
class NamedContent:
    """A text to embed.

    Attributes:
        text: as the caller sent it.
        field: the caller's name of the text.
        options: how it is embedded.
        name_of: gives the caller's name of an option.
    """

    text: str
    field: str
    options: ContentOptions
    name_of: Callable[[str], str]


class EmbedContentRequest(ContentOptions):
    """One text to embed. Vertex AI has the options in `embedContentConfig`."""

    content: Annotated[Content, BeforeValidator(_one_content)]
    embed_content_config: ContentOptions | None = None

    def named(self, prefix: str = "") -> NamedContent:
        """The text with its options; `prefix` stands before the names of its fields."""
        field = f"{prefix}content.parts" + ("[0].text" if len(self.content.parts) == 1 else "")
        shared = self.embed_content_config, f"{prefix}embedContentConfig"
        return _named(self.content.text, field, (self, prefix), shared)

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""

        def build_body(answer: Answer) -> dict[str, Any]:
            return {"embedding": {"values": answer.vectors[0]}, **_usage(answer)}

        return _client_request([self.named()], "content", context, build_body)


class BatchEmbedContentsRequest(GoogleObject):
    """Texts to embed, each with its options."""

    requests: Annotated[list[EmbedContentRequest], *_LIST]

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        contents = [each.named(f"requests[{i}].") for i, each in enumerate(self.requests)]

        def build_body(answer: Answer) -> dict[str, Any]:
            return {"embeddings": [{"values": row} for row in answer.vectors], **_usage(answer)}

        return _client_request(contents, "requests", context, build_body)


class PredictInstance(ContentOptions):
    """One text to embed, as Vertex AI has it."""

    content: wire.Text


class PredictRequest(GoogleObject):
    """Texts to embed, as Vertex AI has them: with the task of each, and options of all."""

    instances: Annotated[list[PredictInstance], *_LIST]
    parameters: ContentOptions | None = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        shared = self.parameters, "parameters"
        contents = [
            _named(each.content, f"instances[{i}].content", (each, f"instances[{i}]."), shared)
            for i, each in enumerate(self.instances)
        ]

        def build_body(answer: Answer) -> dict[str, Any]:
            rows = zip(answer.vectors, answer.tokens, answer.truncated, strict=True)
            return {
                "predictions": [
                    {
                        "embeddings": {
                            "values": row,
                            "statistics": {"token_count": tokens, "truncated": truncated},
                        }
                    }
                    for row, tokens, truncated in rows
                ]
            }

        return _client_request(contents, "instances", context, build_body)


def google_model(name: str, info: BackendInfo) -> dict[str, Any]:
    """`GET /v1beta/models/{name}`, for a name of the model."""
    return {
        "name": f"models/{name}",
        "displayName": name,
        "version": info.name.partition("@")[2],
        "inputTokenLimit": info.max_length,
        "outputTokenLimit": 1,
        "supportedGenerationMethods": ["embedContent", "batchEmbedContents", "countTokens"],
    }


def _named(
    text: str,
    field: str,
    own: tuple[ContentOptions, str],
    shared: tuple[ContentOptions | None, str],
) -> NamedContent:
    """A text with its options.

    `own` are its own options, and the prefix of their names. `shared` are those of several texts,
    which count where it has none, and the name of their object.
    """
    given = {
        name: value
        for name in ContentOptions.model_fields
        if (value := getattr(own[0], name)) is not None
    }

    def name_of(option: str) -> str:
        if option == "task_type" and isinstance(own[0], PredictInstance):
            return f"{own[1]}{option}"  # Vertex AI has no other name for it
        if shared[0] is None or option in given:
            return f"{own[1]}{to_camel(option)}"
        return f"{shared[1]}.{to_camel(option)}"

    options = own[0] if shared[0] is None else shared[0].model_copy(update=given)
    return NamedContent(text, field, options, name_of)


def _client_request(
    contents: Sequence[NamedContent], list_name: str, context: RouteContext, build_body: BuildBody
) -> ClientRequest:
    """The request for texts with tasks of their own, as far as one request can have them.

    Raises:
        InputError: for two different prompts or numbers of dimensions, or a title of a query.
        RefusalError: 404 for a model that is not served.
    """
    _, suffix = context.resolve_model(None)
    choices_by_task: dict[str | None, PromptChoice] = {}
    for each in contents:
        task = each.options.task_type
        if task not in choices_by_task:
            choices_by_task[task] = prompt_for({each.name_of("task_type"): task}, suffix)
    choices = [choices_by_task[each.options.task_type] for each in contents]
    prompted = [i for i, choice in enumerate(choices) if choice.prompted]
    chosen = choices[prompted[0] if prompted else 0]
    for i in prompted:
        if choices[i] != chosen:
            raise _differs("task_type", contents[i], contents[prompted[0]])
    first = contents[0]
    for each in contents:
        if each.options.output_dimensionality != first.options.output_dimensionality:
            raise _differs("output_dimensionality", each, first)
    return ClientRequest(
        texts=[_with_title(*pair) for pair in zip(contents, choices, strict=True)],
        fields=[each.field for each in contents],
        list_name=list_name,
        prompt=chosen,
        build_body=build_body,
        document_positions=set(range(len(contents))) - set(prompted),
        dimensions=first.options.output_dimensionality,
        truncate=all(each.options.auto_truncate is not False for each in contents),
        renames={"dimensions": first.name_of("output_dimensionality")},
    )


def _differs(option: str, one: NamedContent, first: NamedContent) -> InputError:
    value, value_of_first = (getattr(each.options, option) for each in (one, first))
    received = f"{quoted(value)}, where {first.name_of(option)} says {quoted(value_of_first)}"
    return InputError(one.name_of(option), received, "send these texts in requests of their own")


def _with_title(content: NamedContent, choice: PromptChoice) -> str:
    """A document's text behind its title, as the model's authors join the two."""
    title, text = content.options.title, content.text
    if not (title and title.strip() and text.strip()):  # blank text is refused by its own name
        return text
    if choice.prompted:
        remedy = "send it with RETRIEVAL_DOCUMENT, or leave it out"
        raise InputError(content.name_of("title"), quoted(title), remedy)
    return f"{title} {text}"


def _usage(answer: Answer) -> dict[str, Any]:
    return {"usageMetadata": {"promptTokenCount": sum(answer.tokens)}}
