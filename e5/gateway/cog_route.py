"""Cog's own route, so that `Client` and whatever was written for the Cog server can come here too.

Inputs and output are those of `predict.py`. Knows nothing of HTTP or of how vectors are computed.
"""

from typing import Any

from e5.errors import InputError
from e5.gateway.client_request import Request, Result
from e5.gateway.fields import Fields
from e5.gateway.roles import Prompt, Side
from e5.prompts import resolve_task
from e5.serving.request import EmbedRequest
from e5.vectors import cosine_scores, encode_base64


def prediction(fields: Fields) -> Request:
    """`POST /predictions`.

    Raises:
        InputError: naming the field.
    """
    inputs = fields.any("input")
    if not isinstance(inputs, dict):
        raise InputError("input", "nothing", 'send {"input": {"query": "..."}}')
    request = EmbedRequest.parse(**inputs)
    num_queries = len(request.all_queries)
    as_base64 = request.encoding_format == "base64"
    is_symmetric = request.symmetric or resolve_task(request.task).symmetric

    def shape(result: Result) -> dict[str, Any]:
        vectors = result.vectors
        scores = cosine_scores(vectors[:num_queries], vectors[num_queries:])
        output = {
            "embeddings": None if as_base64 else list(vectors),
            "embeddings_base64": [encode_base64(row) for row in vectors] if as_base64 else None,
            "score": float(scores[0, 0]) if scores.size == 1 else None,
            "scores": list(scores) if scores.size else None,
            "usage": {"tokens": result.tokens, "truncated": result.truncated},
            "model": result.model,
        }
        return {"status": "succeeded", "output": output}

    side: Side = "symmetric" if is_symmetric else "query" if num_queries else "document"
    return Request(
        # base64 has no limit of its own; numbers are written in pieces here
        request=request.model_copy(update={"encoding_format": "base64"}),
        places=range(len(request.fields)),
        told={},
        prompt=Prompt(request.task, side).header,
        shape=shape,
    )
