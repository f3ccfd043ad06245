"""What went wrong -> an HTTP status and one error body that every client can read.

OpenAI's clients show `error.message`, Voyage's need `detail`, Cohere's read `message`, those of
text-embeddings-inference and Cog take `error` for a string. Knows nothing of routes or of what was
asked.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from e5.errors import (
    E5Error,
    InputError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
    TextError,
)

Style: TypeAlias = Literal["openai", "tei", "cog"]

RETRY_SECONDS = 1.0  # after which a full queue is worth another try
BUSY = "the service behind this gateway is busy; try again in a moment."
UNREACHABLE = "the service behind this gateway cannot be reached; try again in a moment."
TOO_LATE = "the service behind this gateway did not answer in time; send fewer or shorter texts."
FAILED = "the service behind this gateway failed; the gateway's log has the reason."


class RefusalError(Exception):
    """What a caller is told: an HTTP status, and one sentence."""

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        kind: type[E5Error] = ServiceError,
    ) -> None:
        """Keep what is told.

        Args:
            status: of HTTP.
            sentence: for the caller.
            field: the caller's name of what is wrong, where there is one.
            headers: of the answer.
            kind: the error that it was, for clients that raise it again.
        """
        super().__init__(sentence)
        self.status = status
        self.field = field
        self.headers = dict(headers or {})
        self.kind = kind


def refusal_of(error: Exception) -> RefusalError:
    """Any exception as a refusal; what is not ours says nothing of itself to the caller.

    A text without a vector is 400: clients would send it again for minutes after a 500.

    Example:
        >>> refusal_of(InputError("input[2]", "null", "send a string")).status
        400
        >>> refusal = refusal_of(QueueFullError(10, 5, 12))
        >>> refusal.status, refusal.headers
        (429, {'Retry-After': '1'})
    """
    if isinstance(error, RefusalError):
        return error
    sentence = str(error)
    if isinstance(error, InputError):
        return RefusalError(400, sentence, field=error.field, kind=InputError)
    if isinstance(error, TextError):
        field = sentence.partition(":")[0]
        return RefusalError(400, sentence, field=field, kind=type(error))
    if isinstance(error, RequestTooLargeError):
        return RefusalError(413, sentence, kind=RequestTooLargeError)
    if isinstance(error, QueueFullError):
        return busy(sentence, RETRY_SECONDS, QueueFullError)
    if isinstance(error, ServiceError):
        # Its own sentence is for the operator: it holds the service's address.
        if error.cause == "busy":
            return busy(BUSY, error.retry_after or RETRY_SECONDS)
        if error.cause == "unreachable":
            return RefusalError(503, UNREACHABLE, headers={"Retry-After": "1"})
        return (
            RefusalError(504, TOO_LATE) if error.cause == "deadline" else RefusalError(502, FAILED)
        )
    if isinstance(error, E5Error):
        return RefusalError(502, sentence, kind=type(error))
    return RefusalError(502, "the gateway failed on this request; its log has the reason.")


def busy(sentence: str, seconds: float, kind: type[E5Error] = ServiceError) -> RefusalError:
    """429: try again after some seconds."""
    headers = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return RefusalError(429, sentence, headers=headers, kind=kind)


def body_of(refusal: RefusalError, style: Style) -> dict[str, Any]:
    """The error body.

    Args:
        refusal: what to tell.
        style: what `error` is: OpenAI's object; the sentence, as text-embeddings-inference has it;
            or the sentence with the name of the error before it, as Cog has it.

    Example:
        >>> body_of(RefusalError(404, "no such route."), "tei")["error"]
        'no such route.'
        >>> body_of(refusal_of(InputError("input", "nothing", "send it")), "cog")["error"]
        'InputError: input: received nothing; send it.'
    """
    sentence = str(refusal)
    kind = _kind(refusal.status)
    error: Any = {
        "message": sentence,
        "type": kind,
        "param": refusal.field,
        "code": str(refusal.status),
    }
    if style != "openai":
        error = sentence if style == "tei" else f"{refusal.kind.__name__}: {sentence}"
    return {
        **({"status": "failed"} if style == "cog" else {}),
        "error": error,
        "error_type": "Overloaded" if refusal.status == 429 else _tei_type(refusal.status),
        "message": sentence,
        "detail": sentence,
    }


def _kind(status: int) -> str:
    """OpenAI's word for a status."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    return kinds.get(status, "invalid_request_error" if status < 500 else "server_error")


def _tei_type(status: int) -> str:
    return "Validation" if status < 500 else "Unhealthy" if status == 503 else "Backend"
