"""What a prediction came to: the JSON that Cog wraps around it -> vectors, or the error meant.

Believes nothing of what it reads: whatever another process wrote becomes vectors of one width, or
an `E5Error` of one printable line. Knows nothing of HTTP, of retries or of what was asked.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from e5 import errors
from e5.errors import E5Error, EngineError, InputError, quoted
from e5.vectors import Vectors

MAX_SENTENCE = 500  # characters; the longest of ours has some 350

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RemoteAnswer:
    """What a service computed for one request.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, writable, in the order of the request.
        model: name and fingerprint of what computed it.
        tokens: read of each text; empty where the service does not tell.
        truncated: whether each text was cut; empty where the service does not tell.
    """

    vectors: Vectors
    model: str
    tokens: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; {} for whatever else it is.

    Example:
        >>> parse(b'{"status": "READY"}'), parse(b"<html>")
        ({'status': 'READY'}, {})
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):  # a thousand brackets are valid JSON
        return {}
    return parsed if isinstance(parsed, dict) else {}


def read_output(output: Any) -> RemoteAnswer:
    """The vectors of an `Output` that was asked for in base64, and its usage if it holds one.

    Raises:
        ValueError: for anything else.

    Example:
        >>> embedded = read_output({"embeddings_base64": ["AACAPw=="], "model": "e5-mini@9bb9c967"})
        >>> embedded.vectors, embedded.model, embedded.tokens
        (array([[1.]], dtype=float32), 'e5-mini@9bb9c967', [])
    """
    try:
        rows = [base64.b64decode(row, validate=True) for row in output["embeddings_base64"]]
        model, usage = output["model"], output.get("usage")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("no embeddings_base64 and model") from error
    if not isinstance(model, str) or len({len(row) for row in rows}) != 1:
        raise ValueError("no vectors of one width")
    # Little endian by contract, whatever this machine is; the copy may be written to.
    vectors = np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1).astype(np.float32)
    if usage is None:
        return RemoteAnswer(vectors, model)
    return RemoteAnswer(
        vectors,
        model,
        _one_for_each(len(rows), usage, "tokens", int),
        _one_for_each(len(rows), usage, "truncated", bool),
    )


def _one_for_each(num_texts: int, usage: Any, name: str, kind: type[T]) -> list[T]:
    """A list of the usage, if it has one value of this very type for each text."""
    values = usage.get(name) if isinstance(usage, dict) else None
    if not isinstance(values, list) or [type(value) for value in values] != [kind] * num_texts:
        raise ValueError(f"no usage with {name} of each text")
    return values


def as_error(words: object) -> E5Error:
    """The error behind the words of a failed prediction, of its own class where it is ours.

    Example:
        >>> as_error("Prediction failed: InputError: query: received 7; send a string.")
        InputError('query: received 7; send a string.')
        >>> as_error("Worker crashed")
        EngineError('the service failed: Worker crashed.')
    """
    sentence = plain(words or "").removeprefix("Prediction failed: ")
    sentence = sentence.removeprefix("Async prediction failed: ")
    found = re.match(r"([A-Z]\w*Error): (.+)", sentence)
    kind = getattr(errors, found[1], None) if found else None
    if found and isinstance(kind, type) and issubclass(kind, E5Error):
        return kind.from_sentence(found[2])
    return EngineError(f"the service failed: {sentence.rstrip('.')}.")


def schema_refusal(answer: Mapping[str, Any]) -> InputError | None:
    """The first complaint of Cog's own validation, HTTP 422; None where there is none.

    Example:
        >>> reason = {"loc": ["body", "input", "queries/1"], "msg": "7 is not a string"}
        >>> str(schema_refusal({"detail": [reason]}))[-50:]
        'not a string); send what its /openapi.json allows.'
    """
    try:
        first = answer["detail"][0]
        field, reason = plain(first["loc"][-1]), plain(first["msg"])
    except (KeyError, IndexError, TypeError):
        return None
    return InputError(
        re.sub(r"/(\d+)$", r"[\1]", field),
        f"what the service's schema refuses ({reason})",
        "send what its /openapi.json allows",
    )


def plain(words: object) -> str:
    r"""One printable line of at most `MAX_SENTENCE` characters, and nothing of a traceback.

    Example:
        >>> plain("bell \x07\nand more")
        'bell and more'
    """
    text = str(words)[: 4 * MAX_SENTENCE].partition("Traceback (most recent")[0]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text[:MAX_SENTENCE] or "no reason given"


def first_line(body: bytes) -> str:
    r"""Of a body that was not understood, for an error.

    Example:
        >>> first_line(b"<html>\n<body>"), first_line(b"")
        ('"<html>"', 'an empty body')
    """
    lines = body[:1000].decode(errors="replace").strip().splitlines()
    return quoted(plain(lines[0])) if lines else "an empty body"
