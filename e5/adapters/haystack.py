"""Haystack's text and document embedders over any `Encoder`, for its pipelines.

A saved pipeline holds the name of the function or class that makes the encoder, and its location.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, Self, cast

from haystack import Document, component, default_to_dict
from haystack.utils import deserialize_callable

from e5.encoder import Encoder
from e5.errors import InputError, shortened
from e5.settings import Settings


@cache
def load(weights: str) -> Encoder:
    """Load the embedder of a checkpoint once for all components, by the `E5_*` settings."""
    from e5.embedder import Embedder  # it imports torch, which pipelines over a service do not need

    return Embedder.load(replace(Settings.from_env(), weights=weights))


@dataclass(eq=False, kw_only=True)
class _EncoderComponent:
    """What both components share. Asynchronous pipelines run them in threads.

    Attributes:
        encoder: an `Encoder`; or, for pipelines that are saved, `Client` or `load` to make one.
        location: the argument to make it with: a URL, or the folder of a checkpoint.
        task: the task of the queries. Documents get its prompt if it is a registered symmetric one.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n, before normalising; None keeps all.
    """

    encoder: Encoder | Callable[[str], Encoder] = field(kw_only=False)
    location: str | None = field(default=None, kw_only=False)
    task: str = "web_search_query"
    normalize: bool = True
    dimensions: int | None = None

    @cached_property
    def _ready_encoder(self) -> Any:
        return self.encoder if self.location is None else cast(Any, self.encoder)(self.location)

    @property
    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("task", "normalize", "dimensions")}

    def warm_up(self) -> None:
        """Make the encoder before the first text arrives."""
        self._ready_encoder  # noqa: B018

    def close(self) -> None:
        """Close an encoder that was made here, such as a client; it is made again when needed."""
        made = self.__dict__.pop("_ready_encoder", None)
        if self.location is not None and hasattr(made, "close"):
            made.close()

    def to_dict(self) -> dict[str, Any]:
        """The component as plain data; InputError if the encoder cannot be imported by a name."""
        name = f"{self.encoder.__module__}.{getattr(self.encoder, '__qualname__', '<object>')}"
        if self.location is None or "<" in name:
            raise InputError("encoder", shortened(name), "give a class and a location to save it")
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return default_to_dict(self, **{**values, "encoder": name})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        values = data["init_parameters"]
        return cls(**{**values, "encoder": deserialize_callable(values["encoder"])})


@component
class E5TextEmbedder(_EncoderComponent):
    """Embeds a query: `E5TextEmbedder(Client, "http://127.0.0.1:5000")`."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return the vector of the query as `embedding`."""
        return {"embedding": self._ready_encoder.encode_query([text], **self._options)[0].tolist()}


@component
@dataclass(eq=False, kw_only=True)
class E5DocumentEmbedder(_EncoderComponent):
    """Embeds documents: their content, below the named fields of their `meta`, such as a title."""

    meta_fields_to_embed: list[str] = field(default_factory=list)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return copies of the documents with their vectors, in order."""
        parts = [[*map(doc.meta.get, self.meta_fields_to_embed), doc.content] for doc in documents]
        texts = ["\n".join(str(part) for part in row if part is not None) for row in parts]
        vectors = self._ready_encoder.encode_document(texts, **self._options)
        rows = zip(documents, vectors, strict=True)
        return {"documents": [replace(doc, embedding=vector.tolist()) for doc, vector in rows]}
