"""Cog's own route, for `Client` and all that was written for the Cog server.

Inputs and output are those of `predict.py`. But here a text that is a data URI is a text, as it
stands; `Client`, which cannot know what answers, has escaped it, and the escape is removed.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from typing_extensions import TypedDict

from e5.data_uris import change_texts, unescape
from e5.errors import InputError, quoted
from e5.gateway.client_request import ServiceCall
from e5.gateway.roles import PromptChoice, Side
from e5.gateway.wire import MAX_TEXTS, Dimensions, RouteContext, Text, WireRequest
from e5.prompts import resolve_task
from e5.serving import Answer, EmbedRequest, RequestLimits
from e5.texts import MAX_TASK
from e5.validation import wrong_value
from e5.vectors import cosine_scores, encode_base64

PredictionUsage = TypedDict("PredictionUsage", {"tokens": list[int], "truncated": list[bool]})
PredictionOutput = TypedDict(
    "PredictionOutput",
    {
        "embeddings": list[list[float]] | None,
        "embeddings_base64": list[str] | None,
        "score": float | None,
        "scores": list[list[float]] | None,
        "usage": PredictionUsage,
        "model": str,
    },
)
PredictionAnswer = TypedDict(
    "PredictionAnswer", {"status": Literal["succeeded"], "output": PredictionOutput}
)
_MaybeTexts: TypeAlias = Annotated[list[Text], Field(max_length=MAX_TEXTS)] | None


class PredictionInputs(BaseModel):
    """The inputs of a prediction: null counts as absent, and at least one text is needed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [{"required": [n]} for n in ("query", "document", "queries", "documents")]
        },
    )

    task: Annotated[str, Field(max_length=MAX_TASK)] | None = None
    query: Text | None = None
    document: Text | None = None
    queries: _MaybeTexts = None
    documents: _MaybeTexts = None
    symmetric: bool | None = None
    normalize: bool | None = None
    dimensions: Dimensions = None
    truncate: bool | None = None
    encoding_format: Literal["float", "base64"] | None = None


def _no_webhook(value: object) -> None:
    if value is not None:
        raise wrong_value(quoted(value), "leave it out: the answer to this request has the output")


class PredictionRequest(WireRequest):
    """A prediction to compute."""

    input: Annotated[
        Any,
        PlainValidator(
            lambda inputs: EmbedRequest.parse(
                **change_texts(inputs, unescape, max_texts=RequestLimits.texts)
            ),
            json_schema_input_type=PredictionInputs,
        ),
    ]
    webhook: Annotated[None, PlainValidator(_no_webhook, json_schema_input_type=None)] = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """See `WireRequest.parse`."""
        inputs = body.get("input")
        if not isinstance(inputs, dict):
            received = "nothing" if inputs is None else quoted(inputs)
            raise InputError("input", received, 'send {"input": {"query": "..."}}')
        return super().parse(body)

    def service_call(self, context: RouteContext) -> ServiceCall:  # noqa: ARG002
        """See `WireRequest.service_call`."""
        request: EmbedRequest = self.input
        num_queries = len(request.all_queries)
        as_base64 = request.encoding_format == "base64"
        is_symmetric = request.symmetric or resolve_task(request.task).symmetric

        def build_body(answer: Answer) -> dict[str, Any]:
            vectors = answer.vectors
            scores = cosine_scores(vectors[:num_queries], vectors[num_queries:])
            output = {
                "embeddings": None if as_base64 else list(vectors),
                "embeddings_base64": [encode_base64(row) for row in vectors] if as_base64 else None,
                "score": float(scores[0, 0]) if scores.size == 1 else None,
                "scores": list(scores) if scores.size else None,
                "usage": {"tokens": answer.tokens, "truncated": answer.truncated},
                "model": answer.model,
            }
            return {"status": "succeeded", "output": output}

        side: Side = "symmetric" if is_symmetric else "query" if num_queries else "document"
        return ServiceCall(
            # The service does not limit the numbers of answers in base64; here numbers are written
            # in pieces.
            request=request.model_copy(update={"encoding_format": "base64"}),
            prompt=PromptChoice(request.task, side).header,
            build_body=build_body,
        )
