"""Haystack's text and document embedders over any `Encoder`: pipelines search and index with them.

A saved pipeline names what makes its encoder, and from where. Knows nothing of models or HTTP.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, Self, cast

from haystack import Document, component, default_to_dict
from haystack.utils import deserialize_callable

from e5.encoder import Encoder
from e5.errors import InputError, shortened
from e5.settings import Settings


@cache
def load(weights: str) -> Encoder:
    """The embedder of a weights folder, one for all components; `E5_DEVICE` and such count."""
    from e5.embedder import Embedder  # and torch, which pipelines over a service do without

    return Embedder.load(replace(Settings.from_env(), weights=weights))


@dataclass(eq=False)
class _Component:
    """What both have. Asynchronous pipelines run them in threads, as all that have only `run`.

    Attributes:
        encoder: an `Encoder`; or, in pipelines to be saved, what makes one: `Client`, or `load`.
        location: what it is made from: a URL, or a weights folder.
        task: of the queries. Documents carry it too if it is a registered symmetric one.
        normalize: L2-normalise the vectors.
        dimensions: the first n are kept, before normalising; None keeps all.
    """

    encoder: Encoder | Callable[[str], Encoder]
    location: str | None = None
    _: KW_ONLY
    task: str = "web_search_query"
    normalize: bool = True
    dimensions: int | None = None

    @cached_property
    def _made(self) -> Any:
        return self.encoder if self.location is None else cast(Any, self.encoder)(self.location)

    @property
    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("task", "normalize", "dimensions")}

    def warm_up(self) -> None:
        """Make the encoder before the first text comes."""
        self._made  # noqa: B018

    def close(self) -> None:
        """Close what was made, such as a client's connections; it is made again when needed."""
        if self.location is not None and hasattr(made := self.__dict__.pop("_made", None), "close"):
            made.close()

    def to_dict(self) -> dict[str, Any]:
        """Names, numbers and flags; InputError if no name leads to the encoder."""
        name = f"{self.encoder.__module__}.{getattr(self.encoder, '__qualname__', '<object>')}"
        if self.location is None or "<" in name:
            raise InputError("encoder", shortened(name), "give a class and a location to save it")
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return default_to_dict(self, **{**values, "encoder": name})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        encoder = deserialize_callable(data["init_parameters"]["encoder"])
        return cls(**{**data["init_parameters"], "encoder": encoder})


@component
class E5TextEmbedder(_Component):
    """Embeds a query: `E5TextEmbedder(Client, "http://127.0.0.1:5000")`."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Its vector, as `embedding`."""
        return {"embedding": self._made.encode_query([text], **self._options)[0].tolist()}


@component
@dataclass(eq=False)
class E5DocumentEmbedder(_Component):
    """Embeds documents: their content, below the named fields of their `meta`, such as a title."""

    meta_fields_to_embed: list[str] = field(default_factory=list, kw_only=True)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Copies of them with their vectors, in order."""
        parts = [[*map(doc.meta.get, self.meta_fields_to_embed), doc.content] for doc in documents]
        texts = ["\n".join(str(part) for part in some if part is not None) for some in parts]
        rows = zip(documents, self._made.encode_document(texts, **self._options), strict=True)
        return {"documents": [replace(doc, embedding=row.tolist()) for doc, row in rows]}
