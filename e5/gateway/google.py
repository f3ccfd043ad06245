"""Google's embedContent and batchEmbedContents, and Vertex AI's predict.

The URL names the model. Each text of a batch has its own task, so queries and documents may stand
in one. Names may be in snake case and tasks may be numbers, as protobuf's JSON allows both.
"""

from collections.abc import Sequence
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
    """A task's name, or None for none; a number is a place in Google's list of names."""
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

    text: wire.Text


class Content(GoogleObject):
    """The parts of one text, which Google reads as one."""

    parts: Annotated[list[ContentPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """All parts as one text."""
        return "".join(part.text for part in self.parts)


class ContentOptions(GoogleObject):
    """How one text is embedded."""

    task_type: TaskType = None
    title: str | None = None
    output_dimensionality: wire.Dimensions = None
    auto_truncate: bool | None = None


@dataclass(frozen=True)
class NamedContent:
    """A text to embed, with its options. Each value has the caller's name of it before it."""

    text: tuple[str, str]
    task_type: tuple[str, str | None]
    title: tuple[str, str | None]
    dimensions: tuple[str, int | None]
    truncate: bool


class EmbedContentRequest(ContentOptions):
    """One text to embed. Vertex AI has the options in `embedContentConfig`."""

    content: Annotated[Content, BeforeValidator(_one_content)]
    embed_content_config: ContentOptions | None = None

    def named(self, prefix: str = "") -> NamedContent:
        """The text with its options; `prefix` stands before their names."""
        config = self.embed_content_config

        def option(name: str) -> tuple[str, Any]:
            value = getattr(self, name)
            if value is None and config is not None:
                return f"{prefix}embedContentConfig.{to_camel(name)}", getattr(config, name)
            return f"{prefix}{to_camel(name)}", value

        field = f"{prefix}content.parts" + ("[0].text" if len(self.content.parts) == 1 else "")
        return NamedContent(
            text=(field, self.content.text),
            task_type=option("task_type"),
            title=option("title"),
            dimensions=option("output_dimensionality"),
            truncate=option("auto_truncate")[1] is not False,
        )

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


class PredictInstance(GoogleObject):
    """One text to embed, as Vertex AI has it."""

    content: wire.Text
    task_type: TaskType = None
    title: str | None = None


class PredictParameters(GoogleObject):
    """How all texts are embedded."""

    output_dimensionality: wire.Dimensions = None
    auto_truncate: bool | None = None


class PredictRequest(GoogleObject):
    """Texts to embed, as Vertex AI has them."""

    instances: Annotated[list[PredictInstance], *_LIST]
    parameters: PredictParameters | None = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        shared = self.parameters or PredictParameters()
        contents = [
            NamedContent(
                text=(f"instances[{i}].content", each.content),
                task_type=(f"instances[{i}].task_type", each.task_type),
                title=(f"instances[{i}].title", each.title),
                dimensions=("parameters.outputDimensionality", shared.output_dimensionality),
                truncate=shared.auto_truncate is not False,
            )
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


def _client_request(
    contents: Sequence[NamedContent], list_name: str, context: RouteContext, build_body: BuildBody
) -> ClientRequest:
    """The request for texts with tasks of their own, as far as one request can have them.

    Raises:
        InputError: for two different prompts or numbers of dimensions, or a title of a query.
        RefusalError: 404 for a model that is not served.
    """
    _, suffix = context.resolve_model(None)
    choices = [prompt_for(dict([each.task_type]), suffix) for each in contents]
    prompted = [i for i, choice in enumerate(choices) if choice.prompted]
    first, chosen = contents[0], choices[prompted[0] if prompted else 0]
    for i in prompted:
        if choices[i] != chosen:
            raise _differs(contents[i].task_type, contents[prompted[0]].task_type)
    for each in contents:
        if each.dimensions[1] != first.dimensions[1]:
            raise _differs(each.dimensions, first.dimensions)
    pairs = zip(contents, choices, strict=True)
    return ClientRequest(
        texts=[_with_title(content, choice) for content, choice in pairs],
        fields=[each.text[0] for each in contents],
        list_name=list_name,
        prompt=chosen,
        build_body=build_body,
        document_positions=set(range(len(contents))) - set(prompted),
        dimensions=first.dimensions[1],
        truncate=all(each.truncate for each in contents),
        renames={"dimensions": first.dimensions[0]},
    )


def _differs(one: tuple[str, object], first: tuple[str, object]) -> InputError:
    received = f"{quoted(one[1])}, where {first[0]} says {quoted(first[1])}"
    return InputError(one[0], received, "send these texts in requests of their own")


def _with_title(content: NamedContent, choice: PromptChoice) -> str:
    """A document's text behind its title, as the model's authors join the two."""
    (name, title), (_, text) = content.title, content.text
    if not (title and title.strip() and text.strip()):  # blank text is refused by its own name
        return text
    if choice.prompted:
        raise InputError(name, quoted(title), "send it with RETRIEVAL_DOCUMENT, or leave it out")
    return f"{title} {text}"


def _usage(answer: Answer) -> dict[str, Any]:
    return {"usageMetadata": {"promptTokenCount": sum(answer.tokens)}}
