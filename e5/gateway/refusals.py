"""Errors as HTTP statuses, with one error body that every client can read.

OpenAI's clients show `error.message`, Voyage's need `detail`, Cohere's read `message`, those of
text-embeddings-inference, Ollama and Cog take `error` for a string, and Google's read its `status`.
"""

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from e5.errors import (
    Cause,
    E5Error,
    InputError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
    TextError,
)

ErrorStyle: TypeAlias = Literal["openai", "tei", "cog", "google", "replicate"]

# The first are paths of Ollama, Hugging Face and text-embeddings-inference, the second Google's.
TEI_PREFIXES = ("/api/", "/embed_", "/pipeline/", "/hf-inference/")
GOOGLE_PATH = re.compile("/v1beta|/v1/(projects/|publishers/|models/.*:[a-z]+[A-Z])")
GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

RETRY_AFTER_SECONDS = 1.0  # after which a full queue is worth another try
# The answer to callers when a remote service fails. The error's own sentence holds the address of
# the service, so only the log has it.
REMOTE_FAILURES: Mapping[Cause, tuple[int, str]] = {
    "busy": (429, "the service behind this gateway is busy; try again in a moment."),
    "unreachable": (
        503,
        "the service behind this gateway cannot be reached; try again in a moment.",
    ),
    "died": (
        503,
        "the service behind this gateway failed because its worker died; try again in a moment.",
    ),
    "deadline": (
        504,
        "the service behind this gateway did not answer in time; send fewer or shorter texts.",
    ),
    "other": (502, "the service behind this gateway failed; the gateway's log has the reason."),
}


class RefusalError(Exception):
    """An error that the caller gets as a response.

    Attributes:
        status: the HTTP status.
        error: what went wrong, in the caller's names; its sentence is shown to the caller.
        headers: those of the response, beside the usual ones.
    """

    def __init__(
        self, status: int, error: E5Error | str, headers: Mapping[str, str] | None = None
    ) -> None:
        if isinstance(error, str):
            causes: Mapping[int, Cause] = {429: "busy", 503: "unreachable", 504: "deadline"}
            error = ServiceError(error, cause=causes.get(status, "other"))
        super().__init__(str(error))
        self.status = status
        self.error = error
        self.headers = dict(headers or {})


def refusal_of(error: Exception) -> RefusalError:
    """Any exception as a refusal. The message of another package's exception is not shown.

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
    if isinstance(error, InputError | TextError):
        return RefusalError(400, error)
    if isinstance(error, RequestTooLargeError):
        return RefusalError(413, error)
    if isinstance(error, QueueFullError):
        return busy(error)
    if isinstance(error, ServiceError):
        status, sentence = REMOTE_FAILURES[error.cause]
        shown = ServiceError(sentence, cause=error.cause, retry_after=error.retry_after)
        if status == 429:
            return busy(shown, error.retry_after or RETRY_AFTER_SECONDS)
        return RefusalError(status, shown, {"Retry-After": "1"} if status == 503 else {})
    if isinstance(error, E5Error):
        return RefusalError(502, error)
    return RefusalError(502, "the gateway failed on this request; its log has the reason.")


def busy(error: E5Error | str, seconds: float = RETRY_AFTER_SECONDS) -> RefusalError:
    """429: the caller may try again after some seconds."""
    return RefusalError(429, error, {"Retry-After": str(max(1, math.ceil(seconds)))})


def body_of(refusal: RefusalError, style: ErrorStyle) -> dict[str, Any]:
    """The error body.

    Args:
        refusal: the error, and the status of its response.
        style: what `error` is. It is an object for "openai" and "google". It is the sentence for
            "tei" (Ollama too), and for "replicate" with `title` and `status` beside it. For "cog"
            it is the name of the error and the sentence, and `metrics` has the error as data.

    Example:
        >>> body_of(RefusalError(404, "no such route."), "tei")["error"]
        'no such route.'
        >>> body = body_of(refusal_of(InputError("input", "nothing", "send it")), "cog")
        >>> body["error"], body["metrics"]["error"]["field"]
        ('InputError: input: received nothing; send it.', 'input')
    """
    sentence, status = str(refusal), refusal.status
    body = {"message": sentence, "detail": sentence, "error_type": _tei_type(status)}
    if style == "tei":
        return body | {"error": sentence}
    if style == "replicate" or (style == "cog" and status == 401):  # no prediction has failed
        title = HTTPStatus(status).phrase
        return body | {"error": sentence, "title": title, "status": status}
    if style == "cog":
        error = refusal.error.to_dict()
        text = f"{error['type']}: {sentence}"
        return body | {"status": "failed", "error": text, "metrics": {"error": error}}
    if style == "google":
        name = GOOGLE_STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
        return body | {"error": {"code": status, "message": sentence, "status": name}}
    param = getattr(refusal.error, "field", None)
    details = {"type": _openai_type(status), "param": param, "code": str(status)}
    # Mistral's clients read the details beside `message`.
    return body | {"object": "error", **details, "error": {"message": sentence, **details}}


def style_of(path: str, style: ErrorStyle | None = None) -> ErrorStyle:
    """The form of a refusal.

    Args:
        path: the URL's path, which may have no route.
        style: that of the route; None if there is none.

    Example:
        >>> style_of("/v1/models/gemini:generateContent"), style_of("/api/chat"), style_of("/x")
        ('google', 'tei', 'openai')
    """
    if GOOGLE_PATH.match(path):
        return "google"
    return style or ("tei" if path.startswith(TEI_PREFIXES) else "openai")


def _openai_type(status: int) -> str:
    types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    return types.get(status, "invalid_request_error" if status < 500 else "server_error")


def _tei_type(status: int) -> str:
    types = {429: "Overloaded", 503: "Unhealthy"}
    return types.get(status, "Validation" if status < 500 else "Backend")
