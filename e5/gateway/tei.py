"""text-embeddings-inference's embed, similarity, rerank and info; Hugging Face's clients at `/`.

Knows nothing of HTTP or of how vectors are computed.
"""

from typing import Any

from e5.errors import InputError, quoted
from e5.gateway.client_request import ClientRequest, Result
from e5.gateway.cohere import ranked
from e5.gateway.fields import Fields, truncate_of
from e5.gateway.roles import Prompt, prompt_for
from e5.prompts import DEFAULT_TASK
from e5.vectors import cosine_scores

VERSION = "1.9.3"  # of text-embeddings-inference, whose answers these are


def embed(fields: Fields) -> ClientRequest:
    """`POST /embed`, and `POST /` with `inputs` that are texts.

    Raises:
        InputError: naming the field.
    """
    texts, names = fields.texts("inputs")
    options = fields.object("parameters") if "parameters" in fields else fields
    _check_direction(options)
    options.choice("encoding_format", ("float",), "float")  # Hugging Face's clients may ask for it
    return ClientRequest(
        texts=texts,
        names=names,
        list_name="inputs",
        prompt=prompt_for({"prompt_name": options.text("prompt_name")}),
        shape=lambda result: list(result.vectors),
        normalize=options.flag("normalize", True),
        dimensions=options.integer("dimensions"),
        truncate=truncate_of(options),
    )


def similarity(fields: Fields) -> ClientRequest:
    """`POST /similarity`, and `POST /` with a `source_sentence`: a cosine for each sentence.

    Raises:
        InputError: naming the field.
    """
    inputs = fields.object("inputs")
    source = inputs.required("source_sentence")
    sentences, names = inputs.texts("sentences", single=False)
    options = fields.object("parameters")
    _check_direction(options)
    prompt = prompt_for({"prompt_name": options.text("prompt_name")})

    def shape(result: Result) -> Any:
        return cosine_scores(result.vectors[:1], result.vectors[1:])[0] / 100

    return ClientRequest(
        texts=[source, *sentences],
        names=["inputs.source_sentence", *names],
        list_name="inputs.sentences",
        prompt=prompt,
        shape=shape,
        num_bare=len(sentences) if prompt.side == "query" else 0,
        truncate=truncate_of(options),
    )


def rerank(fields: Fields) -> ClientRequest:
    """`POST /rerank` with `texts`. A score is the cosine, raw or not.

    Raises:
        InputError: naming the field.
    """
    query = fields.required("query")
    texts, names = fields.texts("texts", single=False)
    with_text = fields.flag("return_text", False)
    fields.flag("raw_scores", False)
    _check_direction(fields)

    def shape(result: Result) -> list[dict[str, Any]]:
        return [
            {"index": i, "score": score} | ({"text": texts[i]} if with_text else {})
            for i, score in ranked(result.vectors)
        ]

    return ClientRequest(
        texts=[query, *texts],
        names=["query", *names],
        list_name="texts",
        prompt=Prompt(DEFAULT_TASK, "query"),
        shape=shape,
        num_bare=len(texts),
        truncate=truncate_of(fields),
    )


def info(name: str, *, max_length: int, max_batch_tokens: int, max_texts: int, most: int) -> Any:
    """`GET /info`: what the service is, as text-embeddings-inference tells it."""
    base, _, fingerprint = name.partition("@")
    return {
        "model_id": base,
        "model_sha": fingerprint,
        "model_dtype": "float32",  # of the vectors
        "served_model_name": base,
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": most,
        "max_input_length": max_length,
        "max_batch_tokens": max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": max_texts,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }


def _check_direction(fields: Fields) -> None:
    direction = fields.text("truncation_direction")
    if direction is not None and direction.lower() != "right":
        remedy = "send Right: the model reads the beginning of a text"
        raise InputError("truncation_direction", quoted(direction), remedy)
