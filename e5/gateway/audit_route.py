"""`POST /audit`: says what was done to a vector that somebody has for a text."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainValidator
from typing_extensions import TypedDict

from e5.errors import quoted
from e5.gateway.backend import Backend
from e5.gateway.wire import InformationRequest, RouteContext, Text
from e5.validation import wrong_value


def _vector(value: object) -> object:
    """A value that may hold a vector; the auditor reads it."""
    if not isinstance(value, list | str):
        raise wrong_value(quoted(value), "send a list of numbers, or a text that holds one")
    return value


_DESCRIPTION = (
    "Numbers, or a text that holds them: JSON, base64, or as databases and numpy print them."
)
AuditedVector: TypeAlias = Annotated[
    list[Any] | str,
    PlainValidator(_vector, json_schema_input_type=list[float] | str),
    Field(description=_DESCRIPTION),
]
AuditAnswer = TypedDict(
    "AuditAnswer",
    {
        "verdict": str,
        "cosine": float,
        "cosine_right": float,
        "alternatives": list[str],
        "storage": list[str],
        "advice": str,
        "model": str,
    },
)


class AuditRequest(InformationRequest):
    """A text with its vector, and what it is for."""

    text: Text
    vector: AuditedVector
    role: Literal["query", "document", "auto"] | None = None
    task: str | None = None

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`."""
        assert context.auditor is not None  # without one there is no such route
        role = self.role or "auto"
        verdict = await context.auditor.judge(self.text, self.vector, role, self.task)
        answer = {name: verdict[name] for name in AuditAnswer.__annotations__ if name in verdict}
        return {**answer, "model": (await backend.info()).name}
