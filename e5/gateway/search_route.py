"""`POST /search`: a query in words -> the documents of an index that are nearest to it.

Knows nothing of how an index is built or stored.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from e5.errors import InputError
from e5.gateway.client_request import ClientRequest, Result
from e5.gateway.fields import Fields
from e5.gateway.roles import Prompt
from e5.vectors import Vectors

MAX_TOP = 1000


class Searchable(Protocol):
    """An index of documents, as `e5.corpora.index.Index` is one."""

    @property
    def task(self) -> str:
        """Of queries."""

    @property
    def dimensions(self) -> int:
        """Of its vectors."""

    def check_model(self, model: str) -> None:
        """Refuse a model other than the index's.

        Raises:
            InputError: naming both.
        """

    def search(self, query: Vectors, top: int) -> Sequence[Any]:
        """Hits, the best first; `as_dict` gives a document's values and its `score`."""


def search(fields: Fields, index: Searchable) -> ClientRequest:
    """`POST /search`: `query`, and maybe `top` and `task`.

    Raises:
        InputError: naming the field.
    """
    query = fields.required("query")
    asked = fields.integer("top")
    top = 10 if asked is None else asked
    if not 1 <= top <= MAX_TOP:
        raise InputError("top", str(top), f"send 1 to {MAX_TOP}")
    task = fields.text("task")

    def shape(result: Result) -> dict[str, Any]:
        index.check_model(result.model)
        return {
            "hits": [hit.as_dict() for hit in index.search(result.vectors[0], top)],
            "model": result.model,
            "usage": {"total_tokens": sum(result.tokens)},
        }

    return ClientRequest(
        texts=[query],
        names=["query"],
        list_name="query",
        prompt=Prompt(index.task if task is None else task, "query"),
        shape=shape,
        dimensions=index.dimensions,
        waits=True,
    )
