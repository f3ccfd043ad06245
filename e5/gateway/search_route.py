"""`POST /search`: finds the documents of an index that are nearest to a query."""

from typing import Annotated, Any

from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from e5.errors import InputError
from e5.gateway.client_request import ClientRequest
from e5.gateway.roles import PromptChoice
from e5.gateway.wire import RouteContext, Text, WholeNumber, WireRequest
from e5.serving import Answer
from e5.texts import MAX_TASK

DEFAULT_TOP, MAX_TOP = 10, 1000
_TASK = {
    "type": ["string", "null"],
    "maxLength": MAX_TASK,
    "description": "What to search for: an instruction or a registered task. Without it, the task "
    "that the index was made for.",
}

SearchHit = TypedDict("SearchHit", {"id": str, "score": float, "text": str})  # and the kept columns
SearchAnswer = TypedDict(
    "SearchAnswer", {"hits": list[SearchHit], "model": str, "usage": dict[str, int]}
)


class SearchRequest(WireRequest):
    """What to search for, and how many documents to find."""

    query: Text
    task: Annotated[str | None, WithJsonSchema(_TASK)] = None
    top: Annotated[
        WholeNumber | None,
        WithJsonSchema({"type": ["integer", "null"], "minimum": 1, "maximum": MAX_TOP}),
    ] = None

    def client_request(self, context: RouteContext) -> ClientRequest:
        """See `WireRequest.client_request`."""
        index = context.index
        assert index is not None  # without one there is no such route
        top = DEFAULT_TOP if self.top is None else self.top
        if not 1 <= top <= MAX_TOP:
            raise InputError("top", str(top), f"send 1 to {MAX_TOP}")

        def build_body(answer: Answer) -> dict[str, Any]:
            index.check_model(answer.model)
            return {
                "hits": [hit.as_dict() for hit in index.search(answer.vectors[0], top)],
                "model": answer.model,
                "usage": {"total_tokens": sum(answer.tokens)},
            }

        return ClientRequest(
            texts=[self.query],
            fields=["query"],
            list_name="query",
            prompt=PromptChoice(index.task if self.task is None else self.task, "query"),
            build_body=build_body,
            dimensions=index.dimensions,
            reads_disk=True,
        )
