"""OpenAI's embeddings and models, as OpenAI, Voyage, NVIDIA, Jina and LiteLLM clients send them.

They share the route and the answer, and differ in how they name a text's role: `input_type`,
`task`, or nothing but the model's name. Knows nothing of HTTP or of how vectors are computed.
"""

import base64
from typing import Any, Literal

from e5.gateway.client_request import ClientRequest, Result
from e5.gateway.fields import Fields, truncate_of
from e5.gateway.model_names import Models
from e5.gateway.roles import prompt_for


def embeddings(fields: Fields, models: Models) -> ClientRequest:
    """`POST /v1/embeddings`.

    Raises:
        InputError: naming the field.
        RefusalError: 404 for a model that is not served.
    """
    texts, names = fields.texts("input")
    model, suffix = models.resolve(fields.text("model"))
    formats: tuple[Literal["float", "base64"], ...] = ("float", "base64")
    as_base64 = fields.choice("encoding_format", formats, "float") == "base64"
    fields.choice("output_dtype", ("float",), "float")

    def shape(result: Result) -> dict[str, Any]:
        tokens = sum(result.tokens)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": base64.b64encode(row.data).decode() if as_base64 else row,
                }
                for i, row in enumerate(result.vectors)
            ],
            "model": model,
            "usage": usage | {"tokens": result.tokens, "truncated": result.truncated},
        }

    return ClientRequest(
        texts=texts,
        names=names,
        list_name="input",
        prompt=prompt_for(
            {name: fields.text(name) for name in ("input_type", "task", "prompt_name")}, suffix
        ),
        shape=shape,
        normalize=fields.flag("normalize", True),
        dimensions=fields.integer("dimensions", "output_dimension"),
        truncate=truncate_of(fields),
        words={"dimensions": "dimensions" if "dimensions" in fields else "output_dimension"},
    )


def model_list(models: Models) -> dict[str, Any]:
    """`GET /v1/models`."""
    return {"object": "list", "data": [model_card(name) for name in models.names]}


def model_card(name: str) -> dict[str, Any]:
    """`GET /v1/models/{name}`, for a model that is served."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "e5"}
