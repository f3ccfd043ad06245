"""What a search finds: rankings of rows -> one ranking of documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# Of reciprocal rank fusion, which gives 1 / (60 + rank): Cormack, Clarke and Buettcher (2009).
RANK_OFFSET = 60

TableRow: TypeAlias = Mapping[str, Any]  # values by column, and `_distance`


@dataclass(frozen=True)
class Hit:
    """A document that a search found, or a passage of one.

    Attributes:
        id: its id.
        score: cosine x 100 with the query.
        text: its text.
        values: the values of its other columns.
    """

    id: str
    score: float
    text: str
    values: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The id, score, text and values on one level, for JSON.

        Example:
            >>> Hit("7", 61.2, "Snow.", {"year": 2024}).as_dict()
            {'id': '7', 'score': 61.2, 'text': 'Snow.', 'year': 2024}
        """
        return {"id": self.id, "score": self.score, "text": self.text, **self.values}

    @classmethod
    def from_row(cls, row: TableRow) -> "Hit":
        """The hit that a table's row is."""
        values = dict(row)
        name, text, distance = (values.pop(column) for column in ("id", "text", "_distance"))
        return cls(name, 100 * (1 - distance), text, values)


def merge_rankings(*rankings: Sequence[TableRow]) -> list[TableRow]:
    """Rows of several rankings as one, by the sum of their reciprocal ranks.

    Example:
        >>> first, second = [{"id": "a"}, {"id": "b"}], [{"id": "b"}, {"id": "c"}]
        >>> [row["id"] for row in merge_rankings(first, second)]
        ['b', 'a', 'c']
    """
    rows = {row["id"]: row for ranking in rankings for row in ranking}
    scores = dict.fromkeys(rows, 0.0)
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row["id"]] += 1 / (RANK_OFFSET + rank)
    return sorted(rows.values(), key=lambda row: -scores[row["id"]])


def best_of_each(rows: Sequence[TableRow]) -> list[TableRow]:
    """The first row of each document, in order.

    Example:
        >>> rows = [{"id": "a#1", "document": "a"}, {"id": "a#0", "document": "a"}]
        >>> [row["id"] for row in best_of_each(rows)]
        ['a#1']
    """
    by_document: dict[str, TableRow] = {}
    for row in rows:
        by_document.setdefault(row["document"], row)
    return list(by_document.values())
