"""text-embeddings-inference's embed, similarity, rerank and info, and Hugging Face's routes.

Clients of Hugging Face ask `/`, or older routes whose URLs name the model.
"""

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import PlainValidator
from typing_extensions import TypedDict

from e5.errors import quoted
from e5.gateway import wire
from e5.gateway.backend import BackendInfo
from e5.gateway.client_request import ClientRequest
from e5.gateway.ranking import cosines_with_first, ranked
from e5.gateway.roles import PromptChoice, prompt_for
from e5.gateway.wire import MAX_TEXTS, RouteContext, named_texts, one_of
from e5.prompts import DEFAULT_TASK
from e5.serving import Answer
from e5.validation import wrong_value

TEI_VERSION = "1.9.3"  # of text-embeddings-inference, whose answers these are


def _direction(value: object) -> object:
    if value is not None and not (isinstance(value, str) and value.lower() == "right"):
        raise wrong_value(quoted(value), "send Right: the model reads the beginning of a text")
    return value


Direction: TypeAlias = Annotated[
    str | None,
    PlainValidator(_direction, json_schema_input_type=Literal["Right", "right"] | None),
]
VectorsAnswer: TypeAlias = list[list[float]]
CosinesAnswer: TypeAlias = list[float]
RankedText = TypedDict("RankedText", {"index": int, "score": float, "text": NotRequired[str]})
RankTextsAnswer: TypeAlias = list[RankedText]
InfoAnswer = TypedDict("InfoAnswer", {"model_id": str, "max_input_length": int, "version": str})


class TeiOptions(wire.EmbedOptions):
    """The options that clients of text-embeddings-inference and Hugging Face send with texts."""

    truncation_direction: Direction = None
    encoding_format: Annotated[Literal["float"] | None, one_of("float")] = None

    def request_for(
        self, inputs: str | list[Any], context: RouteContext, prefix: str = ""
    ) -> ClientRequest:
        """The request to embed one text or a list with these options.

        `prefix` stands before the names of the options. Raises as `WireRequest.client_request`.
        """
        _, suffix = context.resolve_model(None)
        prompt = prompt_for({f"{prefix}prompt_name": self.prompt_name}, suffix)
        dimensions = f"{prefix}dimensions", self.dimensions
        return self.embedding_request(
            inputs, "inputs", prompt, lambda answer: list(answer.vectors), dimensions
        )


class EmbedTextsRequest(TeiOptions):
    """Texts to embed, with the options beside them."""

    inputs: wire.OneOrMoreTexts
    parameters: None = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        return self.request_for(self.inputs, context)


class EmbedWithParametersRequest(wire.WireRequest):
    """Texts to embed, with the options in an object, as Hugging Face's clients send them."""

    inputs: wire.OneOrMoreTexts
    parameters: TeiOptions

    fits = staticmethod(lambda body: body.get("parameters") is not None)

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        return self.parameters.request_for(self.inputs, context, "parameters.")


class SentencePair(wire.WireRequest):
    """One sentence, and those it is compared with."""

    source_sentence: wire.Text
    sentences: wire.Texts


class SimilarityOptions(wire.TruncateOptions):
    """The options of a comparison."""

    truncation_direction: Direction = None
    prompt_name: wire.Role = None


class SimilarityRequest(wire.WireRequest):
    """Sentences to compare."""

    inputs: SentencePair
    parameters: SimilarityOptions | None = None

    fits = staticmethod(lambda body: isinstance(body.get("inputs"), dict))

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        _, suffix = context.resolve_model(None)
        options = self.parameters or SimilarityOptions()
        sentences, fields = named_texts(self.inputs.sentences, "inputs.sentences")
        prompt = prompt_for({"parameters.prompt_name": options.prompt_name}, suffix)

        def build_body(answer: Answer) -> Any:
            return cosines_with_first(answer.vectors)

        return ClientRequest(
            texts=[self.inputs.source_sentence, *sentences],
            fields=["inputs.source_sentence", *fields],
            list_name="inputs.sentences",
            prompt=prompt,
            build_body=build_body,
            document_positions=range(1, len(sentences) + 1) if prompt.side == "query" else (),
            truncate=options.truncates,
        )


class RankTextsRequest(wire.TruncateOptions):
    """A query, and texts to rank."""

    query: wire.Text
    texts: wire.Texts
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncation_direction: Direction = None

    fits = staticmethod(lambda body: body.get("texts") is not None)

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`. A score is the cosine, raw or not."""
        texts, fields = named_texts(self.texts, "texts")

        def build_body(answer: Answer) -> list[dict[str, Any]]:
            return [
                {"index": i, "score": score} | ({"text": texts[i]} if self.return_text else {})
                for i, score in ranked(answer.vectors)
            ]

        return ClientRequest(
            texts=[self.query, *texts],
            fields=["query", *fields],
            list_name="texts",
            prompt=PromptChoice(DEFAULT_TASK, "query"),
            build_body=build_body,
            document_positions=range(1, len(texts) + 1),
            truncate=self.truncates,
        )


def info(backend: BackendInfo, *, max_requests: int) -> dict[str, Any]:
    """`GET /info`: the model, in the fields of text-embeddings-inference."""
    base, _, fingerprint = backend.name.partition("@")
    return {
        "model_id": base,
        "model_sha": fingerprint,
        "model_dtype": "float32",  # of the vectors
        "served_model_name": base,
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": max_requests,
        "max_input_length": backend.max_length,
        "max_batch_tokens": backend.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": MAX_TEXTS,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": TEI_VERSION,
        "sha": None,
        "docker_label": None,
    }
