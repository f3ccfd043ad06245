"""NVIDIA's ranking, which other names of its route call reranking."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator
from typing_extensions import TypedDict

from e5.gateway import wire
from e5.gateway.client_request import ClientRequest
from e5.gateway.ranking import ranked
from e5.gateway.roles import PromptChoice
from e5.gateway.wire import MAX_TEXTS, RouteContext
from e5.prompts import DEFAULT_TASK
from e5.serving import Answer
from e5.validation import wrong_value


def _no_image(value: object) -> None:
    if value is not None:
        raise wrong_value("an image", "send texts: this model reads nothing else")


Ranking = TypedDict("Ranking", {"index": int, "logit": float})
RankingUsage = TypedDict("RankingUsage", {"prompt_tokens": int, "total_tokens": int})
RankingAnswer = TypedDict("RankingAnswer", {"rankings": list[Ranking], "usage": RankingUsage})


class RankingText(wire.WireRequest):
    """A text in an object."""

    text: wire.Text
    image: Annotated[None, PlainValidator(_no_image, json_schema_input_type=None)] = None


class RankingRequest(wire.TruncateOptions):
    """A query, and passages to rank."""

    model: str | None = None
    query: RankingText
    passages: Annotated[
        list[RankingText],
        Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True),
        BeforeValidator(wire.few_texts),
    ]

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`. A logit is the cosine."""
        context.resolve_model(self.model)

        def build_body(answer: Answer) -> dict[str, Any]:
            tokens = sum(answer.tokens)
            return {
                "rankings": [{"index": i, "logit": score} for i, score in ranked(answer.vectors)],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }

        num_passages = len(self.passages)
        return ClientRequest(
            texts=[self.query.text, *(passage.text for passage in self.passages)],
            fields=["query.text", *(f"passages[{i}].text" for i in range(num_passages))],
            list_name="passages",
            prompt=PromptChoice(DEFAULT_TASK, "query"),
            build_body=build_body,
            document_positions=range(1, num_passages + 1),
            truncate=self.truncates,
        )
