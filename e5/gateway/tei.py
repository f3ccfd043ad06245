"""text-embeddings-inference's embed, similarity, rerank and info; Hugging Face's clients at `/`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, PlainValidator, RootModel

from e5.errors import quoted
from e5.gateway.backend import BackendInfo
from e5.gateway.client_request import ClientRequest
from e5.gateway.cohere import ranked
from e5.gateway.roles import Prompt, prompt_for
from e5.gateway.wire import (
    Dimensions,
    OneOrMoreTexts,
    Role,
    RouteContext,
    Text,
    Texts,
    Truncate,
    WireRequest,
    named_texts,
    one_of,
)
from e5.prompts import DEFAULT_TASK
from e5.serving import Answer
from e5.serving.request import MAX_TEXTS
from e5.validation import wrong_value
from e5.vectors import cosine_scores

TEI_VERSION = "1.9.3"  # of text-embeddings-inference, whose answers these are


def _direction(value: object) -> object:
    if value is not None and not (isinstance(value, str) and value.lower() == "right"):
        raise wrong_value(quoted(value), "send Right: the model reads the beginning of a text")
    return value


class TruncationOptions(WireRequest):
    """How texts that are too long are truncated."""

    truncate: Truncate = None
    truncation: Truncate = None
    truncation_direction: Annotated[
        str | None,
        PlainValidator(_direction, json_schema_input_type=Literal["Right", "right"] | None),
    ] = None

    @property
    def truncates(self) -> bool:
        """Whether texts that are too long are truncated."""
        return self.first_given("truncation", "truncate")[1] is not False


class SimilarityOptions(TruncationOptions):
    """The options of similarity."""

    prompt_name: Role = None


class EmbedOptions(SimilarityOptions):
    """The options of embed."""

    normalize: bool | None = None
    dimensions: Dimensions = None
    encoding_format: Annotated[Literal["float"] | None, one_of("float")] = None

    def embed(self, inputs: str | list[Any], prefix: str = "") -> ClientRequest:
        """The request to embed texts with these options; `prefix` stands before their names.

        Raises:
            InputError: for a `prompt_name` without a meaning.
        """
        texts, names = named_texts(inputs, "inputs")
        return ClientRequest(
            texts=texts,
            names=names,
            list_name="inputs",
            prompt=prompt_for({f"{prefix}prompt_name": self.prompt_name}),
            build_body=lambda answer: list(answer.vectors),
            normalize=self.normalize is not False,
            dimensions=self.dimensions,
            truncate=self.truncates,
            fields_by_name={"dimensions": f"{prefix}dimensions"},
        )


class EmbedTextsRequest(EmbedOptions):
    """Texts to embed, with the options beside them."""

    inputs: OneOrMoreTexts
    parameters: None = None

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`."""
        return self.embed(self.inputs)


class EmbedWithParametersRequest(WireRequest):
    """Texts to embed, with the options in an object, as Hugging Face's clients send them."""

    inputs: OneOrMoreTexts
    parameters: EmbedOptions

    @classmethod
    def fits(cls, body: Mapping[str, Any]) -> bool:
        """See `WireRequest.fits`."""
        return body.get("parameters") is not None

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`."""
        return self.parameters.embed(self.inputs, "parameters.")


class SentencePair(WireRequest):
    """One sentence, and those it is compared with."""

    source_sentence: Text
    sentences: Texts


class SimilarityRequest(WireRequest):
    """Sentences to compare."""

    inputs: SentencePair
    parameters: SimilarityOptions | None = None

    @classmethod
    def fits(cls, body: Mapping[str, Any]) -> bool:
        """See `WireRequest.fits`."""
        return isinstance(body.get("inputs"), dict)

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`."""
        options = self.parameters or SimilarityOptions()
        sentences, names = named_texts(self.inputs.sentences, "inputs.sentences")
        prompt = prompt_for({"parameters.prompt_name": options.prompt_name})

        def build_body(answer: Answer) -> Any:
            return cosine_scores(answer.vectors[:1], answer.vectors[1:])[0] / 100

        return ClientRequest(
            texts=[self.inputs.source_sentence, *sentences],
            names=["inputs.source_sentence", *names],
            list_name="inputs.sentences",
            prompt=prompt,
            build_body=build_body,
            num_documents=len(sentences) if prompt.side == "query" else 0,
            truncate=options.truncates,
        )


class RankTextsRequest(TruncationOptions):
    """A query, and texts to rank."""

    query: Text
    texts: Texts
    raw_scores: bool | None = None
    return_text: bool | None = None

    @classmethod
    def fits(cls, body: Mapping[str, Any]) -> bool:
        """See `WireRequest.fits`."""
        return body.get("texts") is not None

    def client_request(self, context: RouteContext) -> ClientRequest:  # noqa: ARG002
        """See `WireRequest.client_request`. A score is the cosine, raw or not."""
        texts, names = named_texts(self.texts, "texts")

        def build_body(answer: Answer) -> list[dict[str, Any]]:
            return [
                {"index": i, "score": score} | ({"text": texts[i]} if self.return_text else {})
                for i, score in ranked(answer.vectors)
            ]

        return ClientRequest(
            texts=[self.query, *texts],
            names=["query", *names],
            list_name="texts",
            prompt=Prompt(DEFAULT_TASK, "query"),
            build_body=build_body,
            num_documents=len(texts),
            truncate=self.truncates,
        )


class EmbedTextsAnswer(RootModel[list[list[float]]]):
    """The vectors, in the order of the texts."""


class SimilarityAnswer(RootModel[list[float]]):
    """The cosine of each sentence with the one."""


class RankedText(BaseModel):
    """A text's index in the request, and its cosine with the query."""

    index: int
    score: float
    text: str = ""


class RankTextsAnswer(RootModel[list[RankedText]]):
    """The texts, the best first."""


class InfoAnswer(BaseModel):
    """What is served."""

    model_id: str
    model_sha: str
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str


def info(backend: BackendInfo, *, max_requests: int) -> dict[str, Any]:
    """`GET /info`: what is served, in the fields of text-embeddings-inference."""
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
