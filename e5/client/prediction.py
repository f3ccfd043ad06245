"""The JSON of a prediction -> its vectors, or the error that the service raised.

Nothing that is read is trusted: whatever another process wrote becomes vectors of one width, or an
error of one printable line.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from e5.errors import Cause, E5Error, EngineError, InputError, one_line, quoted
from e5.vectors import Vectors, decode_base64

MAX_LINE = 500  # characters of a sentence that another process wrote
COG_PREFIX = re.compile(r"(Prediction failed: )?(Async prediction failed: )?")


@dataclass(frozen=True, eq=False)
class RemoteAnswer:
    """What a service computed for one request.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, writable, in the order of the request.
        model: name and fingerprint of the model that computed them.
        tokens: number of tokens of each text; empty where the service does not report them.
        truncated: whether each text was truncated; empty where the service does not report it.
    """

    vectors: Vectors
    model: str
    tokens: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)


@dataclass(eq=False)
class RequestFailedError(Exception):
    """A request without a usable answer. `RemoteService` makes it a ServiceError with its name.

    Attributes:
        failure: what happened; like the remedy a part of a sentence.
        remedy: what to do, as an imperative.
        cause: that of the ServiceError.
        retry_after: that of the ServiceError.
        may_retry: whether the same request may succeed a moment later, and does no harm.
    """

    failure: str
    remedy: str = "try again"
    cause: Cause = "other"
    retry_after: float | None = None
    may_retry: bool = False

    def __str__(self) -> str:
        return self.failure


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; {} for a body that is anything else."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):  # a thousand brackets are valid JSON
        return {}
    return parsed if isinstance(parsed, dict) else {}


def read_prediction(prediction: Mapping[str, Any]) -> RemoteAnswer:
    """The answer of a prediction that has ended; raises the error of one that failed."""
    status = prediction.get("status")
    if status == "failed":
        raise read_error(prediction)
    if status != "succeeded":
        raise RequestFailedError(f"the prediction ended as {quoted(status)}")
    try:
        return read_output(prediction.get("output"))
    except ValueError as error:
        failure = f"its output is not that of this service ({short_line(error)})"
        raise RequestFailedError(failure, "check that it is an E5 service") from error


def read_output(output: Any) -> RemoteAnswer:
    """The vectors of an `Output` that was asked for in base64, and its usage if it holds one.

    Raises:
        ValueError: for anything else.

    Example:
        >>> answer = read_output({"embeddings_base64": ["AACAPw=="], "model": "e5-mini@9bb9c967"})
        >>> answer.vectors, answer.model, answer.tokens
        (array([[1.]], dtype=float32), 'e5-mini@9bb9c967', [])
    """
    try:
        vectors = decode_base64(output["embeddings_base64"])
        model, usage = output["model"], output.get("usage")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("no embeddings_base64 and model") from error
    if not isinstance(model, str):
        raise ValueError("no name of a model")
    if usage is None:
        return RemoteAnswer(vectors, model)
    for name, kind in (("tokens", int), ("truncated", bool)):
        values = usage.get(name) if isinstance(usage, dict) else None
        if not isinstance(values, list) or [type(each) for each in values] != [kind] * len(vectors):
            raise ValueError(f"no usage with {name} of each text")
    return RemoteAnswer(vectors, model, usage["tokens"], usage["truncated"])


def read_error(prediction: Mapping[str, Any]) -> E5Error:
    """The error of a failed prediction: the data in `metrics.error`, made by `E5Error.to_dict`.

    A failure without such data is an EngineError with the sentence in `error`.

    Example:
        >>> data = InputError("query", "7", "send a string").to_dict()
        >>> read_error({"error": "Prediction failed: ...", "metrics": {"error": data}})
        InputError('query: received 7; send a string.')
        >>> read_error({"error": "Prediction failed: Worker crashed"})
        EngineError('the service failed: Worker crashed.')
    """
    metrics = prediction.get("metrics")
    error = E5Error.from_dict(metrics.get("error")) if isinstance(metrics, dict) else None
    reason = COG_PREFIX.sub("", str(prediction.get("error") or ""), count=1)
    return error or EngineError(f"the service failed: {short_line(reason).rstrip('.')}.")


def read_schema_refusal(answer: Mapping[str, Any]) -> InputError | None:
    """The first error of Cog's own validation, HTTP 422; None for any other body."""
    try:
        first = answer["detail"][0]
        field, reason = short_line(first["loc"][-1]), short_line(first["msg"])
    except (KeyError, IndexError, TypeError):
        return None
    received = f"what the service's schema refuses ({reason})"
    remedy = "send what its /openapi.json allows"
    return InputError(re.sub(r"/(\d+)$", r"[\1]", field), received, remedy)


def short_line(text: object) -> str:
    """What another process wrote, on one line of at most `MAX_LINE` characters; no traceback."""
    shown = str(text)[: 4 * MAX_LINE].partition("Traceback (most recent")[0]
    return " ".join(one_line(shown).split())[:MAX_LINE] or "no reason given"


def first_line(body: bytes) -> str:
    """The beginning of a body that was not understood, quoted for an error."""
    lines = body[:1000].decode(errors="replace").strip().splitlines()
    return quoted(short_line(lines[0])) if lines else "an empty body"
