"""An `Embedder` is an `Encoder`: for mypy, at run time, and word for word."""

import inspect
from typing import Any

import numpy as np
import pytest

from e5.embedder import Embedder
from e5.encoder import Encoder

MEMBERS = {"name", "dimensions", "encode_query", "encode_document", "similarity"}
METHODS = ["encode_query", "encode_document", "similarity"]


def best(encoder: Encoder, query: str, documents: list[str]) -> str:
    """The example of `Encoder`; that mypy lets an embedder in is the first test."""
    scores = encoder.similarity(encoder.encode_query(query), encoder.encode_document(documents))
    return documents[int(scores.argmax())]


def test_an_embedder_is_accepted_where_an_encoder_is_asked_for(embedder: Embedder) -> None:
    assert best(embedder, "snow", ["rain", "sun"]) in ("rain", "sun")


def test_an_encoder_has_these_members_and_no_more() -> None:
    assert {name for name in vars(Encoder) if not name.startswith("_")} == MEMBERS


def test_an_embedder_has_every_member_with_the_type_promised(embedder: Embedder) -> None:
    assert isinstance(embedder.name, str)
    assert isinstance(embedder.dimensions, int)
    assert embedder.encode_document("snow").shape == (embedder.dimensions,)
    assert embedder.encode_query(["snow"]).shape == (1, embedder.dimensions)
    assert embedder.similarity(np.ones(2, np.float32), np.ones(2, np.float32)).shape == (1, 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_have_the_same_parameters_in_the_same_order(method: str) -> None:
    """By name, kind, type and default: an `Encoder`'s caller may rely on each."""
    assert parameters_of(Embedder, method) == parameters_of(Encoder, method)
    assert return_of(Embedder, method) == return_of(Encoder, method)


def parameters_of(owner: type, method: str) -> list[tuple[Any, ...]]:
    return [
        (parameter.name, parameter.kind, parameter.annotation, parameter.default)
        for parameter in inspect.signature(getattr(owner, method)).parameters.values()
    ]


def return_of(owner: type, method: str) -> Any:
    return inspect.signature(getattr(owner, method)).return_annotation
